/* The option table machinery, the tables of both programs, and the number formats. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/cli/cli.h"
#include "common/cli/human.h"
#include "common/file.h"
#include "common/log.h"
#include "master/options.h"
#include "worker/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a program of every type ---- */

typedef struct {
    bool flag, other;
    int count, color;
    const char *text, *path;
    int64_t number, wait_ms;
    double ratio;
    uint64_t size;
    cake_cli_list tags;
} demo_options;

static const char *const colors[] = {"red", "green", "blue", NULL};
#define AT(f) offsetof(demo_options, f)
static const cake_opt demo_opts[] = {
    {"flag", 'f', CAKE_OPT_FLAG, AT(flag), NULL, NULL, 0, 0, NULL, 0, 0, "G", "a flag"},
    {"count", 'c', CAKE_OPT_COUNT, AT(count), NULL, NULL, 0, 0, NULL, 0, 0, "G", "a count"},
    {"text", 't', CAKE_OPT_TEXT, AT(text), "TEXT", NULL, 0, 0, NULL, 0, 0, "G", "a text"},
    {"path", 0, CAKE_OPT_STRING, AT(path), "FILE", NULL, 0, 0, NULL, 0, CAKE_OPT_FILE, "G",
     "a path"},
    {"number", 'n', CAKE_OPT_INT, AT(number), "N", "7", -5, 100, NULL, 0, 0, "H", "a number"},
    {"wait-time", 0, CAKE_OPT_DURATION, AT(wait_ms), "T", "2s", 0, 60000, NULL, 0, 0, "H",
     "a time"},
    {"ratio", 0, CAKE_OPT_FLOAT, AT(ratio), "X", "0.5", 0, 1, NULL, 0, 0, "H", "a ratio"},
    {"size", 's', CAKE_OPT_BYTES, AT(size), "BYTES", "1K", 0, 0, NULL, 0, 0, "H", "a size"},
    {"color", 0, CAKE_OPT_ENUM, AT(color), "C", "green", 0, 0, colors, 0, 0, "H", "a colour"},
    {"tag", 0, CAKE_OPT_LIST, AT(tags), "T", NULL, 0, 0, NULL, 0, 0, "H", "a tag"},
    {"other", 0, CAKE_OPT_FLAG, AT(other), NULL, NULL, 0, 0, NULL, 2, CAKE_OPT_CMDLINE, "H",
     "second verb only"},
};
static const cake_verb demo_verbs[] = {
    {"go", "[WHERE]", 0, 1, "go", NULL},
    {"stop now", NULL, 0, 0, "stop", "Stops."},
    {"stop later", "WHEN", 1, 1, "stop later", NULL},
};
static const cake_cli_program demo = {.name = "demo",
                                      .summary = "a demo",
                                      .verbs = demo_verbs,
                                      .n_verbs = 3,
                                      .default_verb = 0,
                                      .opts = demo_opts,
                                      .n_opts = sizeof demo_opts / sizeof *demo_opts};

enum { MAX_ARGS = 16 };

/* "a b|c d" style: words separated by blanks, '~' stands for a blank inside a word, '@' for an
 * empty word. */
static char words_text[1024];
static cake_status parse_words(const cake_cli_program *prog, const char *line, void *out,
                               cake_cli *cli, cake_error *err) {
    static char *argv[MAX_ARGS + 1];
    int argc = 1;
    snprintf(words_text, sizeof words_text, "%s", line);
    argv[0] = words_text + sizeof words_text - 1;
    for (char *w = strtok(words_text, " "); w && argc < MAX_ARGS; w = strtok(NULL, " ")) {
        for (char *c = w; *c; c++)
            if (*c == '~') *c = ' ';
        if (strcmp(w, "@") == 0) *w = 0;
        argv[argc++] = w;
    }
    argv[argc] = NULL;
    return cake_cli_parse(prog, argc, argv, out, cli, err);
}

static demo_options ok(const char *line, cake_cli *cli) {
    demo_options o;
    cake_error err = {0};
    memset(&o, 0xee, sizeof o); /* every field must be written */
    if (parse_words(&demo, line, &o, cli, &err) != CAKE_OK) fail_msg("'%s': %s", line, err.msg);
    return o;
}

static void bad(const cake_cli_program *prog, const char *line, cake_status st, const char *word) {
    union {
        demo_options d;
        cake_master_options m;
        cake_worker_options w;
    } o;
    cake_cli cli;
    cake_error err = {0};
    cake_status got = parse_words(prog, line, &o, &cli, &err);
    if (got == CAKE_OK) {
        cake_cli_deinit(&cli);
        fail_msg("'%s' was accepted", line);
    }
    assert_int_equal(got, st);
    if (!strstr(err.msg, word)) fail_msg("'%s': no '%s' in: %s", line, word, err.msg);
}

/* Each test runs with an empty home, so that nobody's config file changes the outcome. */
static char home[64];
static int setup(void **state) {
    (void)state;
    static const char *const names[] = {"FLAG",  "COUNT",  "TEXT",  "NUMBER", "TAG",
                                        "OTHER", "CONFIG", "MODEL", "COLOR"};
    strcpy(home, "/tmp/cake-cli-XXXXXX");
    assert_non_null(mkdtemp(home));
    setenv("XDG_CONFIG_HOME", home, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[32];
        snprintf(name, sizeof name, "CAKE_%s", names[i]);
        unsetenv(name);
    }
    return 0;
}
static int teardown(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/cake/config", home);
    unlink(path);
    snprintf(path, sizeof path, "%s/cake", home);
    rmdir(path);
    rmdir(home);
    return 0;
}
static void write_config(const char *text, size_t len) {
    char path[128];
    snprintf(path, sizeof path, "%s/cake", home);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cake/config", home);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    fclose(f);
}

/* ---- tests ---- */

static void test_defaults(void **state) {
    (void)state;
    cake_cli cli;
    demo_options o = ok("", &cli);
    assert_int_equal(cli.action, CAKE_CLI_RUN);
    assert_int_equal(cli.verb, 0);
    assert_false(cli.verb_given);
    assert_false(o.flag);
    assert_int_equal(o.count, 0);
    assert_null(o.text);
    assert_null(o.path);
    assert_int_equal(o.number, 7);
    assert_int_equal(o.wait_ms, 2000);
    assert_true(o.ratio == 0.5);
    assert_int_equal(o.size, 1024);
    assert_int_equal(o.color, 1);
    assert_int_equal(o.tags.n, 0);
    assert_int_equal(cake_cli_source_of(&demo, &cli, "number"), CAKE_FROM_DEFAULT);
    assert_false(cli.config_found);
    cake_cli_deinit(&cli);
}

static void test_spellings(void **state) {
    (void)state;
    cake_cli cli;
    demo_options o =
        ok("--flag --text a~b --number=-5 --wait-time 500ms --ratio .25 --size=1.5GiB --color blue "
           "--tag x --tag=y -cc",
           &cli);
    assert_true(o.flag);
    assert_string_equal(o.text, "a b");
    assert_int_equal(o.number, -5);
    assert_int_equal(o.wait_ms, 500);
    assert_true(o.ratio == 0.25);
    assert_int_equal(o.size, 3u << 29);
    assert_int_equal(o.color, 2);
    assert_int_equal(o.count, 2);
    assert_int_equal(o.tags.n, 2);
    assert_string_equal(o.tags.v[1], "y");
    assert_int_equal(cake_cli_source_of(&demo, &cli, "number"), CAKE_FROM_ARGV);
    cake_cli_deinit(&cli);
    o = ok("-fcn5 -t -x -s2M", &cli); /* clusters, attached values, values with a dash */
    assert_true(o.flag);
    assert_int_equal(o.count, 1);
    assert_int_equal(o.number, 5);
    assert_string_equal(o.text, "-x");
    assert_int_equal(o.size, 2 << 20);
    cake_cli_deinit(&cli);
    o = ok("-n=5 --flag --no-flag -n 6", &cli); /* the last word counts */
    assert_int_equal(o.number, 6);
    assert_false(o.flag);
    cake_cli_deinit(&cli);
    o = ok("--flag=false --count --count", &cli);
    assert_int_equal(o.count, 2);
    cake_cli_deinit(&cli);
}

static void test_text_may_be_empty(void **state) {
    (void)state;
    cake_cli cli;
    demo_options o = ok("--text @ --flag=yes", &cli);
    assert_non_null(o.text);
    assert_string_equal(o.text, "");
    assert_true(o.flag);
    cake_cli_deinit(&cli);
    bad(&demo, "--path @", CAKE_EUSAGE, "empty");
}

static void test_verbs_and_operands(void **state) {
    (void)state;
    cake_cli cli;
    ok("-n 3 go there", &cli);
    assert_int_equal(cli.verb, 0);
    assert_true(cli.verb_given);
    assert_int_equal(cli.n_args, 1);
    assert_string_equal(cli.args[0], "there");
    cake_cli_deinit(&cli);
    ok("go -- --flag", &cli);
    assert_string_equal(cli.args[0], "--flag");
    cake_cli_deinit(&cli);
    ok("go -", &cli);
    assert_string_equal(cli.args[0], "-");
    cake_cli_deinit(&cli);
    demo_options o = ok("stop --other now", &cli);
    assert_int_equal(cli.verb, 1);
    assert_true(o.other);
    cake_cli_deinit(&cli);
    ok("stop later soon", &cli);
    assert_int_equal(cli.verb, 2);
    assert_string_equal(cli.args[0], "soon");
    cake_cli_deinit(&cli);
    bad(&demo, "stop", CAKE_EUSAGE, "now, later");
    bad(&demo, "stop then", CAKE_EUSAGE, "now, later");
    bad(&demo, "stop later", CAKE_EUSAGE, "needs WHEN");
    bad(&demo, "stop now please", CAKE_EUSAGE, "no operand");
    bad(&demo, "go a b", CAKE_EUSAGE, "'b'");
    bad(&demo, "og", CAKE_EUSAGE, "did you mean 'go'");
    bad(&demo, "stpo now", CAKE_EUSAGE, "did you mean 'stop'");
    bad(&demo, "nonsense", CAKE_EUSAGE, "unknown verb");
    bad(&demo, "go --other", CAKE_EUSAGE, "stop now");
}

static void test_bad_command_lines(void **state) {
    (void)state;
    bad(&demo, "--numbr 5", CAKE_EUSAGE, "did you mean --number?");
    bad(&demo, "--nubmer 5", CAKE_EUSAGE, "did you mean --number?");
    bad(&demo, "--wait 5", CAKE_EUSAGE, "did you mean --wait-time?");
    bad(&demo, "--xyzzy", CAKE_EUSAGE, "unknown option --xyzzy");
    bad(&demo, "--hlep", CAKE_EUSAGE, "--help");
    bad(&demo, "-x", CAKE_EUSAGE, "unknown option -x");
    bad(&demo, "-flag", CAKE_EUSAGE, "did you mean --flag?");
    bad(&demo, "--number", CAKE_EUSAGE, "needs a value");
    bad(&demo, "-n", CAKE_EUSAGE, "needs a value");
    bad(&demo, "--color", CAKE_EUSAGE, "red, green or blue");
    bad(&demo, "--text --flag", CAKE_EUSAGE, "--text=--flag");
    bad(&demo, "--number 101", CAKE_EUSAGE, "from -5 to 100");
    bad(&demo, "--number -6", CAKE_EUSAGE, "from -5 to 100");
    bad(&demo, "--number 5x", CAKE_EUSAGE, "whole number");
    bad(&demo, "--number 5.5", CAKE_EUSAGE, "whole number");
    bad(&demo, "--number @", CAKE_EUSAGE, "whole number");
    bad(&demo, "--number ~5", CAKE_EUSAGE, "whole number");
    bad(&demo, "--number 99999999999999999999", CAKE_EUSAGE, "out of range");
    bad(&demo, "--ratio 1.01", CAKE_EUSAGE, "from 0 to 1");
    bad(&demo, "--ratio nan", CAKE_EUSAGE, "a number");
    bad(&demo, "--ratio inf", CAKE_EUSAGE, "a number");
    bad(&demo, "--ratio 0x1", CAKE_EUSAGE, "a number");
    bad(&demo, "--wait-time 61", CAKE_EUSAGE, "60s");
    bad(&demo, "--wait-time soon", CAKE_EUSAGE, "500ms");
    bad(&demo, "--size -1", CAKE_EUSAGE, "1.5GiB");
    bad(&demo, "--size 1X", CAKE_EUSAGE, "1.5GiB");
    bad(&demo, "--color pink", CAKE_EUSAGE, "red, green or blue");
    bad(&demo, "--flag=maybe", CAKE_EUSAGE, "true or false");
    bad(&demo, "--no-flag=1", CAKE_EUSAGE, "no value");
    bad(&demo, "--no-number", CAKE_EUSAGE, "unknown option");
    bad(&demo, "--help=1", CAKE_EUSAGE, "no value");
    bad(&demo, "completion", CAKE_EUSAGE, "bash or zsh");
    char line[300] = "--";
    memset(line + 2, 'a', 200);
    bad(&demo, line, CAKE_EUSAGE, "unknown option");
}

static void test_precedence(void **state) {
    (void)state;
    static const char text[] =
        "# mine\nnumber = 1\ntext = \"from  file\"\nflag = yes\ntag = a\ntag = b\n"
        "[other-program]\nnumber = 55\nmodel = x\n[demo]\ncolor=red\n";
    cake_cli cli;
    write_config(text, sizeof text - 1);
    demo_options o = ok("", &cli);
    assert_true(cli.config_found);
    assert_int_equal(o.number, 1);
    assert_string_equal(o.text, "from  file");
    assert_true(o.flag);
    assert_int_equal(o.color, 0);
    assert_int_equal(o.tags.n, 2);
    assert_string_equal(o.tags.v[0], "a");
    assert_int_equal(cake_cli_source_of(&demo, &cli, "number"), CAKE_FROM_CONFIG);
    cake_cli_deinit(&cli);
    setenv("CAKE_NUMBER", "2", 1);
    setenv("CAKE_TAG", "p, q,r", 1);
    setenv("CAKE_OTHER", "1", 1); /* command line only: not read */
    o = ok("stop now", &cli);
    assert_int_equal(o.number, 2);
    assert_int_equal(o.tags.n, 3);
    assert_string_equal(o.tags.v[1], "q");
    assert_false(o.other);
    assert_int_equal(cake_cli_source_of(&demo, &cli, "number"), CAKE_FROM_ENV);
    cake_cli_deinit(&cli);
    o = ok("-n3 --tag z --no-flag", &cli);
    assert_int_equal(o.number, 3);
    assert_int_equal(o.tags.n, 1);
    assert_false(o.flag);
    cake_cli_deinit(&cli);
    /* a flag mends a bad value below it */
    setenv("CAKE_NUMBER", "many", 1);
    bad(&demo, "", CAKE_ECONFIG, "CAKE_NUMBER takes a whole number");
    o = ok("-n3", &cli);
    assert_int_equal(o.number, 3);
    cake_cli_deinit(&cli);
    setenv("CAKE_NUMBER", "", 1); /* empty is not set */
    o = ok("", &cli);
    assert_int_equal(o.number, 1);
    cake_cli_deinit(&cli);
}

static void test_bad_config(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"numbr = 1\n", "config:1: unknown key 'numbr'; did you mean 'number'?"},
        {"\n\nmodel-folder = x\n", "config:3: demo has no option 'model-folder'"},
        {"number 5\n", "config:1: expected 'key = value'"},
        {"number = 5\nnumber = 6\n", "config:2: 'number' was given in line 1 already"},
        {"number = 500\n", "config:1: number 500 is out of range"},
        {"text = \"open\n", "does not end"},
        {"[demo\n", "bracket"},
        {"other = true\n", "command line only"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_config(cases[i].text, strlen(cases[i].text));
        bad(&demo, "", CAKE_ECONFIG, cases[i].word);
    }
    write_config("flag = 1\0", 9);
    bad(&demo, "", CAKE_ECONFIG, "zero byte");
    /* help does not need a sound config file */
    cake_cli cli;
    ok("--help", &cli);
    assert_int_equal(cli.action, CAKE_CLI_HELP);
    cake_cli_deinit(&cli);
    write_config("", 0);
    bad(&demo, "--config /nonexistent/cfg", CAKE_ECONFIG, "/nonexistent/cfg");
    setenv("CAKE_CONFIG", "/nonexistent/env", 1);
    bad(&demo, "", CAKE_ECONFIG, "/nonexistent/env");
    char line[128];
    snprintf(line, sizeof line, "--config %s/cake/config", home);
    write_config("number_ = 1", 11);
    bad(&demo, line, CAKE_ECONFIG, "number");
    write_config("wait_time = 3s \r\n", 17); /* underscores and DOS line ends are fine */
    demo_options o = ok(line, &cli);
    assert_int_equal(o.wait_ms, 3000);
    cake_cli_deinit(&cli);
}

static void test_actions(void **state) {
    (void)state;
    cake_cli cli;
    static const struct {
        const char *line;
        cake_cli_action action;
        int verb;
    } cases[] = {
        {"--help", CAKE_CLI_HELP, -1},      {"-h", CAKE_CLI_HELP, -1},
        {"help", CAKE_CLI_HELP, -1},        {"help stop now", CAKE_CLI_HELP, 1},
        {"go --help", CAKE_CLI_HELP, 0},    {"stop later -h", CAKE_CLI_HELP, 2},
        {"--version", CAKE_CLI_VERSION, 0}, {"-V", CAKE_CLI_VERSION, 0},
        {"--dump-man", CAKE_CLI_MAN, 0},    {"completion bash", CAKE_CLI_COMPLETION, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ok(cases[i].line, &cli);
        assert_int_equal(cli.action, cases[i].action);
        if (cli.action == CAKE_CLI_HELP) assert_int_equal(cli.verb, cases[i].verb);
        cake_cli_deinit(&cli);
    }
    bad(&demo, "help go-away", CAKE_EUSAGE, "unknown verb");
}

/* Run start() in a child: its exit code, what it printed. */
static int start(const cake_cli_program *prog, const char *const *words, char *out, char *errors,
                 size_t cap) {
    int po[2], pe[2];
    assert_int_equal(pipe(po) | pipe(pe), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(po[1], 1), dup2(pe[1], 2);
        union {
            demo_options d;
            cake_master_options m;
            cake_worker_options w;
        } o;
        char *argv[MAX_ARGS] = {strdup("x")};
        int argc = 1;
        for (; words[argc - 1]; argc++) argv[argc] = strdup(words[argc - 1]);
        cake_cli cli;
        int rc = cake_cli_start(prog, argc, argv, &o, &cli);
        _exit(rc < 0 ? 100 : rc);
    }
    close(po[1]), close(pe[1]);
    char *buf[2] = {out, errors};
    int fd[2] = {po[0], pe[0]};
    for (int i = 0; i < 2; i++) { /* small texts: the pipes hold them */
        size_t n = 0;
        ssize_t got;
        while (n + 1 < cap && (got = read(fd[i], buf[i] + n, cap - 1 - n)) > 0) n += (size_t)got;
        buf[i][n] = 0;
        close(fd[i]);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_start(void **state) {
    (void)state;
    static char out[20000], errors[20000];
#define START(prog, ...)                                                                           \
    start(prog, (const char *const[]){__VA_ARGS__, NULL}, out, errors, sizeof out)
    assert_int_equal(START(&demo, "--help"), 0);
    assert_non_null(strstr(out, "Usage: demo"));
    assert_string_equal(errors, "");
    assert_int_equal(START(&demo, "--version"), 0);
    assert_string_equal(out, "demo " CAKE_VERSION "\n");
    assert_int_equal(START(&demo, "--nope"), 2);
    assert_string_equal(out, "");
    assert_non_null(strstr(errors, "demo: unknown option --nope"));
    assert_non_null(strstr(errors, "--help"));
    setenv("CAKE_NUMBER", "x", 1);
    assert_int_equal(START(&demo, "go"), 78);
    unsetenv("CAKE_NUMBER");
    assert_int_equal(START(&demo, "go"), 100);
    assert_int_equal(START(&demo, "completion", "fish"), 2);
    assert_int_equal(START(&cake_worker_program, "--completion", "bash"), 0);
    assert_non_null(strstr(out, "complete -F _cake_worker cake-worker"));
    assert_int_equal(START(&cake_worker_program, "-q"), 100);
    assert_int_equal(START(&cake_worker_program, "stray"), 2);
}

static char *generated(const cake_cli_program *prog, int what, int verb) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    cake_error err;
    if (what == 0)
        cake_cli_print_help(prog, verb, f);
    else if (what == 1)
        cake_cli_print_man(prog, f);
    else
        assert_int_equal(cake_cli_print_completion(prog, what == 2 ? "bash" : "zsh", f, &err),
                         CAKE_OK);
    fclose(f);
    return text;
}

/* Every visible option is in help, man page and both completions, and help keeps to 80 columns. */
static void test_generators_cover_the_tables(void **state) {
    (void)state;
    const cake_cli_program *progs[] = {&demo, &cake_master_program, &cake_worker_program};
    for (size_t p = 0; p < 3; p++) {
        const cake_cli_program *prog = progs[p];
        char *man = generated(prog, 1, -1), *bash = generated(prog, 2, -1),
             *zsh = generated(prog, 3, -1);
        for (size_t i = 0; i < prog->n_opts; i++) {
            const cake_opt *o = &prog->opts[i];
            char name[64], roff[96];
            snprintf(name, sizeof name, "--%s", o->name);
            size_t n = 0;
            for (const char *c = name; *c; c++)
                n += (size_t)sprintf(roff + n, *c == '-' ? "\\-" : "%c", *c);
            assert_non_null(strstr(man, roff));
            assert_non_null(strstr(bash, name));
            assert_non_null(strstr(zsh, name));
            for (int v = -1; v < (int)prog->n_verbs; v++) {
                bool in = prog->n_verbs == 0 ||
                          (v < 0 ? o->verbs == 0 : o->verbs == 0 || (o->verbs >> v & 1));
                char *help = generated(prog, 0, v);
                snprintf(name, sizeof name, "  --%s%s", o->name, o->arg ? " " : "");
                char *short_name = strstr(help, name);
                snprintf(name, sizeof name, ", --%s%s", o->name, o->arg ? " " : "");
                if (in != (short_name || strstr(help, name)))
                    fail_msg("%s verb %d: %s", prog->name, v, o->name);
                for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n"))
                    if (strlen(line) > 90) fail_msg("too wide: %s", line);
                free(help);
            }
        }
        for (unsigned v = 0; v < prog->n_verbs; v++)
            assert_non_null(strstr(man, prog->verbs[v].help + 1));
        free(man), free(bash), free(zsh);
    }
}

/* The pages in deploy/man hold what the tables say now; `make man` brings them up to date. */
static void test_man_pages_are_fresh(void **state) {
    (void)state;
    static const struct {
        const cake_cli_program *prog;
        const char *path;
    } pages[] = {{&cake_master_program, "deploy/man/cake-master.1"},
                 {&cake_worker_program, "deploy/man/cake-worker.1"}};
    for (size_t i = 0; i < 2; i++) {
        char *page, *man = generated(pages[i].prog, 1, -1);
        size_t len;
        cake_error err = {0};
        if (cake_file_read(pages[i].path, 1 << 20, &page, &len, &err) != CAKE_OK)
            fail_msg("%s", err.msg);
        for (char *at = man; *at;) { /* section by section: they stand apart in the page */
            char *next = strstr(at + 1, ".SH ");
            char *section = next ? strndup(at, (size_t)(next - at)) : strdup(at);
            if (!strstr(page, section))
                fail_msg("%s is stale, run make man: %.40s", pages[i].path, section);
            free(section);
            at += next ? (size_t)(next - at) : strlen(at);
        }
        free(page);
        free(man);
    }
}

/* Ask the generated bash function itself what it would offer. */
static void bash_offers(const cake_cli_program *prog, const char *words, const char *want,
                        const char *not_want) {
    if (system("bash --version >/dev/null 2>&1") != 0) {
        print_message("skip: no bash\n");
        skip();
    }
    char script[64] = "/tmp/cake-complete-XXXXXX", command[512], answer[8192];
    int fd = mkstemp(script);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    cake_error err;
    assert_int_equal(cake_cli_print_completion(prog, "bash", f, &err), CAKE_OK);
    fprintf(f, "COMP_WORDS=(%s %s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n", prog->name, words);
    fprintf(f, "_%s; printf ' %%s' \"${COMPREPLY[@]}\" ' '\n",
            prog == &cake_worker_program ? "cake_worker" : "cake_master");
    fclose(f);
    snprintf(command, sizeof command, "bash -u %s 2>&1", script);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(answer, 1, sizeof answer - 1, pipe);
    answer[n] = 0;
    assert_int_equal(pclose(pipe), 0);
    unlink(script);
    char word[64];
    snprintf(word, sizeof word, " %s ", want);
    if (!strstr(answer, word)) fail_msg("'%s' offers %s, not %s", words, answer, want);
    snprintf(word, sizeof word, " %s ", not_want);
    if (strstr(answer, word)) fail_msg("'%s' offers %s", words, not_want);
}

static void test_bash_completion(void **state) {
    (void)state;
    const cake_cli_program *m = &cake_master_program;
    bash_offers(m, "''", "plan", "create");
    bash_offers(m, "pl", "plan", "run");
    bash_offers(m, "cluster ''", "create", "plan");
    bash_offers(m, "--model x plan --", "--optimize", "--prompt");
    bash_offers(m, "run --te", "--temperature", "--wire");
    bash_offers(m, "--wire ''", "q8", "plan");
    bash_offers(m, "--wire = f1", "f16", "f32");
    bash_offers(m, "cluster create --", "--force", "--model");
    bash_offers(m, "completion ''", "zsh", "plan");
    bash_offers(m, "help ''", "workers", "--model");
    bash_offers(m, "-q --model dir ''", "run", "--model dir");
    bash_offers(&cake_worker_program, "--cache-", "--cache-size", "--name");
    bash_offers(&cake_worker_program, "--log-format ''", "json", "--name");
}

static cake_status master(const char *line, cake_master_options *o, cake_cli *cli,
                          cake_error *err) {
    cake_status st = parse_words(&cake_master_program, line, o, cli, err);
    if (st != CAKE_OK) return st;
    st = cake_master_options_check(o, cli, err);
    if (st != CAKE_OK) cake_cli_deinit(cli);
    return st;
}

static void test_master_table(void **state) {
    (void)state;
    cake_master_options o;
    cake_cli cli;
    cake_error err = {0};
    assert_int_equal(master("--topology t.yml --model dir --prompt Hi~there -n 5 --temperature 0",
                            &o, &cli, &err),
                     CAKE_OK);
    assert_int_equal(cli.verb, CAKE_VERB_RUN);
    assert_string_equal(o.model, "dir");
    assert_string_equal(o.prompt, "Hi there");
    assert_string_equal(o.topology, "t.yml");
    assert_int_equal(o.sample_len, 5);
    assert_true(o.temperature == 0);
    assert_int_equal(o.discovery_timeout_ms, 2000);
    assert_int_equal(o.compute, CAKE_COMPUTE_INT8);
    assert_int_equal(o.wire, CAKE_OPTION_WIRE_F32);
    assert_int_equal(o.seed, -1);
    cake_cli_deinit(&cli);
    assert_int_equal(master("run --model dir Hello --wire q8 --compute f32 --seed 9007199254740992",
                            &o, &cli, &err),
                     CAKE_OK);
    assert_string_equal(o.prompt, "Hello");
    assert_int_equal(o.wire, CAKE_OPTION_WIRE_Q8);
    assert_int_equal(o.compute, CAKE_COMPUTE_F32);
    assert_int_equal(o.seed, (int64_t)1 << 53);
    cake_cli_deinit(&cli);
    assert_int_equal(
        master("plan --model d --optimize throughput --json --min-workers 3", &o, &cli, &err),
        CAKE_OK);
    assert_int_equal(o.optimize, CAKE_OPTIMIZE_THROUGHPUT);
    assert_true(o.json);
    cake_cli_deinit(&cli);
    assert_int_equal(master("cluster join --force", &o, &cli, &err), CAKE_OK);
    assert_int_equal(cli.verb, CAKE_VERB_CLUSTER_JOIN);
    cake_cli_deinit(&cli);

    static const struct {
        const char *line, *word;
    } cases[] = {
        {"", "--model DIR --prompt TEXT"},
        {"run --prompt x", "needs a model"},
        {"plan", "needs a model"},
        {"run --model d", "needs a prompt"},
        {"run --model d --prompt a b", "two prompts"},
        {"bundle --model d", "--out DIR"},
        {"--model d --prompt x --insecure --cluster-key-file k", "exclude"},
        {"--model d --prompt x --min-workers 2 --discovery-timeout 0", "cannot be met"},
        {"--model d --prompt x --top-p 1.5", "from 0 to 1"},
        {"--model d --prompt x --min-workers 1025", "1024"},
        {"--cluster-key secret", "--cluster-key-file"}, /* secrets never on argv */
        {"surve", "unknown verb"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(master(cases[i].line, &o, &cli, &err), CAKE_EUSAGE);
        if (!strstr(err.msg, cases[i].word))
            fail_msg("'%s': no '%s' in: %s", cases[i].line, cases[i].word, err.msg);
    }
    /* typed --insecure overrides a key file of the config, and the other way round */
    write_config("cluster-key-file = /k\n", 22);
    assert_int_equal(master("workers --insecure", &o, &cli, &err), CAKE_OK);
    assert_true(o.insecure);
    assert_null(o.cluster_key_file);
    cake_cli_deinit(&cli);
    write_config("insecure = true\n", 16);
    assert_int_equal(master("workers --cluster-key-file k", &o, &cli, &err), CAKE_OK);
    assert_false(o.insecure);
    cake_cli_deinit(&cli);
}

static void test_worker_table(void **state) {
    (void)state;
    cake_worker_options o;
    cake_cli cli;
    cake_error err = {0};
    assert_int_equal(parse_words(&cake_worker_program, "", &o, &cli, &err), CAKE_OK);
    assert_null(o.name);
    assert_int_equal(o.memory, 0);
    assert_int_equal(o.log_level, CAKE_LOG_INFO);
    cake_cli_deinit(&cli);
    assert_int_equal(
        parse_words(&cake_worker_program,
                    "--name a --address 127.0.0.1:0 --cluster-key-file k --cache d --threads 3 "
                    "--memory 6G --cache-size 20GB",
                    &o, &cli, &err),
        CAKE_OK);
    assert_string_equal(o.address, "127.0.0.1:0");
    assert_int_equal(o.threads, 3);
    assert_int_equal(o.memory, 6ull << 30);
    assert_int_equal(o.cache_size, 20000000000u);
    cake_cli_deinit(&cli);
    bad(&cake_worker_program, "--threads 1025", CAKE_EUSAGE, "1024");
    bad(&cake_worker_program, "--model x", CAKE_EUSAGE, "unknown option");
    cake_cli_set_log(CAKE_LOG_WARN, 0, false, 1);
    assert_int_equal(cake_log_min, CAKE_LOG_INFO);
    cake_cli_set_log(CAKE_LOG_WARN, 0, false, 2);
    assert_int_equal(cake_log_min, CAKE_LOG_DEBUG);
    cake_cli_set_log(CAKE_LOG_INFO, 0, true, 0);
    assert_int_equal(cake_log_min, CAKE_LOG_ERROR);
    cake_cli_set_log(CAKE_LOG_WARN, 0, false, 0);
}

static void test_human_printers(void **state) {
    (void)state;
    char b[CAKE_HUMAN_MAX];
    assert_string_equal(cake_human_bytes(b, 0), "0 B");
    assert_string_equal(cake_human_bytes(b, 1023), "1023 B");
    assert_string_equal(cake_human_bytes(b, 1536), "1.50 KiB");
    assert_string_equal(cake_human_bytes(b, 12902400), "12.3 MiB");
    assert_string_equal(cake_human_bytes(b, (1u << 30) - 1), "1.00 GiB");
    assert_string_equal(cake_human_bytes(b, 123ull << 30), "123 GiB");
    assert_string_equal(cake_human_bytes(b, 10235), "10.0 KiB"); /* never "9.995" as 10.00 */
    assert_string_equal(cake_human_bytes(b, UINT64_MAX), "16.0 EiB");
    assert_string_equal(cake_human_rate(b, 1e6), "977 KiB/s");
    assert_string_equal(cake_human_rate(b, 0), "-");
    assert_string_equal(cake_human_rate(b, NAN), "-");
    assert_string_equal(cake_human_seconds(b, 0.00087), "870 us");
    assert_string_equal(cake_human_seconds(b, 0.0123), "12.3 ms");
    assert_string_equal(cake_human_seconds(b, 4.21), "4.21 s");
    assert_string_equal(cake_human_seconds(b, 59.96), "1:00");
    assert_string_equal(cake_human_seconds(b, 187), "3:07");
    assert_string_equal(cake_human_seconds(b, 7387), "2:03:07");
    assert_string_equal(cake_human_seconds(b, 273600), "3 d 4 h");
    assert_string_equal(cake_human_seconds(b, -1), "-");
    assert_string_equal(cake_human_seconds(b, INFINITY), "-");
    assert_string_equal(cake_human_seconds(b, 0.0009996), "1.00 ms");
    assert_string_equal(cake_human_count(b, 999), "999");
    assert_string_equal(cake_human_count(b, 1500), "1.50 k");
    assert_string_equal(cake_human_count(b, 494e6), "494 M");
}

static void test_human_parsers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t want;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"1k", 1024},
        {"1K", 1024},
        {"512M", 512 << 20},
        {"1.5GiB", 3ull << 29},
        {"1.5 GiB", 3ull << 29},
        {"2GB", 2000000000},
        {"10b", 10},
        {"1Ti", 1ull << 40},
        {".5K", 512},
        {"9223372036854775807", INT64_MAX},
    };
    uint64_t v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(cake_human_parse_bytes(good[i].text, &v));
        assert_int_equal(v, good[i].want);
    }
    static const char *const wrong[] = {"",
                                        "-1",
                                        "+1",
                                        "K",
                                        "1X",
                                        "1KK",
                                        "1 2",
                                        "1e3",
                                        "0x10",
                                        "1.2.3",
                                        " 1",
                                        "1MiBs",
                                        "9223372036854775808",
                                        "99999999999T",
                                        "."};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(cake_human_parse_bytes(wrong[i], &v));
    int64_t ms;
    assert_true(cake_human_parse_duration("2", &ms) && ms == 2000);
    assert_true(cake_human_parse_duration("0", &ms) && ms == 0);
    assert_true(cake_human_parse_duration("0.25s", &ms) && ms == 250);
    assert_true(cake_human_parse_duration("500ms", &ms) && ms == 500);
    assert_true(cake_human_parse_duration("1.5m", &ms) && ms == 90000);
    assert_true(cake_human_parse_duration("1h", &ms) && ms == 3600000);
    assert_false(cake_human_parse_duration("", &ms) || cake_human_parse_duration("-1", &ms) ||
                 cake_human_parse_duration("5x", &ms) || cake_human_parse_duration("1e9", &ms));
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const names[] = {"model", "memory", "min-p", "temperature"};
    assert_string_equal(cake_cli_nearest("mdoel", names, 4), "model");
    assert_string_equal(cake_cli_nearest("temp", names, 4), "temperature");
    assert_null(cake_cli_nearest("zebra", names, 4));
    char word[200];
    memset(word, 'x', 199);
    word[199] = 0;
    assert_null(cake_cli_nearest(word, names, 4));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_defaults),
        T(test_spellings),
        T(test_text_may_be_empty),
        T(test_verbs_and_operands),
        T(test_bad_command_lines),
        T(test_precedence),
        T(test_bad_config),
        T(test_actions),
        T(test_start),
        T(test_generators_cover_the_tables),
        T(test_man_pages_are_fresh),
        T(test_bash_completion),
        T(test_master_table),
        T(test_worker_table),
        T(test_human_printers),
        T(test_human_parsers),
        T(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
