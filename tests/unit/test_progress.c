/* Progress: what a terminal shows after the bytes written (a small emulation), lines where there is
 * none, rates and times under a clock of our own, several threads, quiet, colour, tables. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "master/ui/progress.h"
#include "master/ui/table.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t clock_ns;
static uint64_t fake_now(void) {
    return __atomic_load_n(&clock_ns, __ATOMIC_RELAXED);
}
static void pass(double s) {
    __atomic_add_fetch(&clock_ns, (uint64_t)(s * 1e9), __ATOMIC_RELAXED);
}

typedef struct {
    FILE *f;
    char *text;
    size_t len;
    cake_progress *p;
} session;

static void begin(session *s, int tty, bool quiet, cake_color color) {
    s->f = open_memstream(&s->text, &s->len);
    assert_non_null(s->f);
    cake_progress_config cfg = {
        .out = s->f, .quiet = quiet, .color = color, .tty = tty, .columns = 80, .now_ns = fake_now};
    s->p = cake_progress_new(&cfg);
}
static void end(session *s) {
    cake_progress_free(s->p);
    fclose(s->f);
}

/* ---- a terminal of 100 lines that knows what we use ---- */

enum { ROWS = 100, COLS = 256 };
typedef struct {
    char cell[ROWS][COLS];
    int row, col, last;
} screen;

static void show_on(screen *t, const char *s) {
    memset(t, 0, sizeof *t);
    for (; *s; s++) {
        if (*s == '\n') {
            t->row++, t->col = 0; /* the terminal's newline translation */
        } else if (*s == '\r') {
            t->col = 0;
        } else if (*s == '\033') {
            int n = 0;
            assert_int_equal(s[1], '[');
            for (s += 2; *s >= '0' && *s <= '9'; s++) n = 10 * n + *s - '0';
            if (*s == 'A')
                t->row -= n;
            else if (*s == 'K')
                memset(t->cell[t->row] + t->col, 0, (size_t)(COLS - t->col));
            else if (*s == 'J')
                for (int r = t->row; r < ROWS; r++)
                    memset(t->cell[r] + (r == t->row ? t->col : 0), 0, COLS / 2);
            else
                assert_int_equal(*s, 'm');
            assert_true(t->row >= 0);
        } else {
            assert_true(t->row < ROWS && t->col < COLS - 1);
            t->cell[t->row][t->col++] = *s;
        }
        if (t->row > t->last) t->last = t->row;
    }
}

static void test_bars_on_a_terminal(void **state) {
    (void)state;
    session s;
    begin(&s, 1, false, CAKE_COLOR_NEVER);
    int a = cake_progress_start(s.p, "send to w1", 100 << 20, CAKE_PROGRESS_BYTES);
    int b = cake_progress_start(s.p, "send to w2", 200 << 20, CAKE_PROGRESS_BYTES);
    assert_true(a >= 0 && b >= 0 && a != b);
    for (int i = 1; i <= 4; i++) {
        pass(1);
        cake_progress_update(s.p, a, (uint64_t)i * (10 << 20));
        cake_progress_update(s.p, b, (uint64_t)i * (20 << 20));
    }
    pass(0.2);
    cake_progress_tick(s.p);
    screen t;
    show_on(&t, s.text);
    assert_non_null(strstr(t.cell[0], "send to w1"));
    assert_non_null(strstr(t.cell[0], "40%"));
    assert_non_null(strstr(t.cell[0], "40.0 MiB / 100 MiB"));
    assert_non_null(strstr(t.cell[0], "[#"));
    assert_non_null(strstr(t.cell[1], "80.0 MiB / 200 MiB"));
    assert_int_equal(t.cell[2][0], 0);
    /* a line goes above the bars, and they stay where they belong */
    cake_progress_line(s.p, "found %d workers", 2);
    show_on(&t, s.text);
    assert_string_equal(t.cell[0], "found 2 workers");
    assert_non_null(strstr(t.cell[1], "send to w1"));
    assert_non_null(strstr(t.cell[2], "send to w2"));
    /* an ended bar becomes a line above the other */
    pass(6);
    cake_progress_update(s.p, a, 100 << 20);
    cake_progress_finish(s.p, a, true, NULL);
    show_on(&t, s.text);
    assert_non_null(strstr(t.cell[1], "send to w1: 100 MiB in 10.2 s, 9.80 MiB/s"));
    assert_non_null(strstr(t.cell[2], "send to w2"));
    assert_int_equal(t.cell[3][0], 0);
    cake_progress_finish(s.p, b, false, "connection lost");
    show_on(&t, s.text);
    assert_string_equal(t.cell[2], "send to w2: connection lost (failed)");
    assert_int_equal(t.cell[3][0], 0);
    assert_int_equal(t.row, 3);
    end(&s);
    free(s.text);
}

static void test_rate_and_eta(void **state) {
    (void)state;
    session s;
    begin(&s, 1, false, CAKE_COLOR_NEVER);
    int a = cake_progress_start(s.p, "x", 1000 << 20, CAKE_PROGRESS_BYTES);
    cake_progress_resume(s.p, a, 400 << 20); /* what was there does not count as speed */
    for (int i = 1; i <= 10; i++) {
        pass(1);
        cake_progress_update(s.p, a, (400u << 20) + (uint64_t)i * (10 << 20));
    }
    screen t;
    show_on(&t, s.text);
    assert_non_null(strstr(t.cell[0], "10.0 MiB/s"));
    assert_non_null(strstr(t.cell[0], "50.0 s")); /* 500 MiB left */
    /* nothing arrives: ticks let the rate sink and the time left grow */
    for (int i = 0; i < 10; i++) {
        pass(1);
        cake_progress_tick(s.p);
    }
    show_on(&t, s.text);
    assert_null(strstr(t.cell[0], "10.0 MiB/s"));
    cake_progress_update(s.p, a, 1000 << 20);
    cake_progress_finish(s.p, a, true, NULL);
    show_on(&t, s.text);
    assert_non_null(strstr(t.cell[0], "30.0 MiB/s")); /* 600 MiB in 20 s */
    end(&s);
    free(s.text);
}

static void test_redraws_are_bounded(void **state) {
    (void)state;
    session s;
    begin(&s, 1, false, CAKE_COLOR_NEVER);
    int a = cake_progress_start(s.p, "x", 100000, CAKE_PROGRESS_COUNT);
    for (int i = 0; i < 100000; i++) {
        pass(0.00001);
        cake_progress_update(s.p, a, (uint64_t)i);
    }
    fflush(s.f);
    size_t draws = 0;
    for (const char *c = s.text; (c = strchr(c, '\n')); c++) draws++;
    assert_in_range(draws, 5, 12); /* one second, ten redraws */
    end(&s);
    free(s.text);
}

static void test_narrow_and_wide(void **state) {
    (void)state;
    static const int widths[] = {20, 30, 40, 59, 60, 80, 120, 1000};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        session s = {0};
        s.f = open_memstream(&s.text, &s.len);
        cake_progress_config cfg = {.out = s.f, .tty = 1, .columns = widths[i], .now_ns = fake_now};
        s.p = cake_progress_new(&cfg);
        cake_progress_start(
            s.p, "a label that is rather long \xc3\xa9\xc3\xa9\xc3\xa9 and goes on and on",
            1ull << 40, CAKE_PROGRESS_BYTES);
        int b = cake_progress_start(s.p, "short", 0, CAKE_PROGRESS_BYTES);
        for (int k = 1; k < 5; k++) pass(1), cake_progress_update(s.p, b, (uint64_t)k * 123456789);
        cake_progress_tick(s.p);
        fflush(s.f);
        screen t;
        show_on(&t, s.text);
        for (int r = 0; r < 2; r++) {
            size_t columns = 0;
            for (const char *c = t.cell[r]; *c; c++) columns += ((unsigned char)*c & 0xc0) != 0x80;
            assert_true(columns > 10 && columns < (size_t)widths[i]); /* a full line would wrap */
        }
        end(&s);
        free(s.text);
    }
}

static void test_lines_without_a_terminal(void **state) {
    (void)state;
    session s;
    begin(&s, 0, false, CAKE_COLOR_ALWAYS);
    int a = cake_progress_start(s.p, "load", 1000, CAKE_PROGRESS_COUNT);
    for (int i = 1; i <= 1000; i++) {
        pass(0.01);
        cake_progress_update(s.p, a, (uint64_t)i);
    }
    cake_progress_tick(s.p);
    cake_progress_finish(s.p, a, true, "ready");
    cake_progress_line(s.p, "bad\033[2Jname\n");
    end(&s);
    assert_null(strchr(s.text, '\033')); /* also nothing a peer's name could bring */
    int lines = 0;
    for (char *c = s.text; *c; c++) lines += *c == '\n';
    assert_int_equal(lines, 11); /* 10 % to 90 %, the end, the line */
    assert_non_null(strstr(s.text, "load: 10%, 100 of 1.00 k, 100/s"));
    assert_non_null(strstr(s.text, "load: 90%"));
    assert_null(strstr(s.text, "100%"));
    assert_non_null(strstr(s.text, "load: ready\n"));
    free(s.text);
    /* a jump prints one line, a resumed transfer begins where it was */
    begin(&s, 0, false, CAKE_COLOR_NEVER);
    a = cake_progress_start(s.p, "x", 100, CAKE_PROGRESS_COUNT);
    cake_progress_resume(s.p, a, 55);
    cake_progress_update(s.p, a, 58);
    cake_progress_update(s.p, a, 95);
    cake_progress_update(s.p, a, 96);
    end(&s);
    assert_non_null(strstr(s.text, "x: 90%"));
    assert_int_equal(strchr(s.text, '\n')[1], 0);
    free(s.text);
}

static void test_quiet(void **state) {
    (void)state;
    for (int tty = 0; tty < 2; tty++) {
        session s;
        begin(&s, tty, true, CAKE_COLOR_ALWAYS);
        int a = cake_progress_start(s.p, "x", 10, CAKE_PROGRESS_COUNT);
        pass(5);
        cake_progress_update(s.p, a, 5);
        cake_progress_tick(s.p);
        cake_progress_line(s.p, "nothing");
        cake_progress_finish(s.p, a, true, NULL);
        fflush(s.f);
        assert_int_equal(s.len, 0);
        cake_progress_error(s.p, "worker %s is gone", "w1");
        end(&s);
        assert_string_equal(s.text, "worker w1 is gone\n");
        free(s.text);
    }
}

static void test_color(void **state) {
    (void)state;
    session s;
    begin(&s, 1, false, CAKE_COLOR_ALWAYS);
    int a = cake_progress_start(s.p, "x", 10, CAKE_PROGRESS_COUNT);
    cake_progress_finish(s.p, a, false, "no");
    end(&s);
    assert_non_null(strstr(s.text, "\033[31mno\033[0m"));
    free(s.text);
    FILE *f = tmpfile();
    assert_non_null(f);
    assert_true(cake_color_on(f, CAKE_COLOR_ALWAYS));
    assert_false(cake_color_on(f, CAKE_COLOR_NEVER));
    assert_false(cake_color_on(f, CAKE_COLOR_AUTO)); /* a file */
    fclose(f);
}

static void test_ids(void **state) {
    (void)state;
    session s;
    begin(&s, 0, false, CAKE_COLOR_NEVER);
    for (int i = 0; i < CAKE_PROGRESS_MAX_BARS; i++)
        assert_int_equal(cake_progress_start(s.p, "x", 0, CAKE_PROGRESS_COUNT), i);
    assert_int_equal(cake_progress_start(s.p, "x", 0, CAKE_PROGRESS_COUNT), -1);
    cake_progress_update(s.p, -1, 5);
    cake_progress_update(s.p, 1000, 5);
    cake_progress_finish(s.p, -1, true, NULL);
    cake_progress_finish(s.p, 7, true, "done");
    cake_progress_update(s.p, 7, 5); /* ended */
    assert_int_equal(cake_progress_start(s.p, "y", 0, CAKE_PROGRESS_COUNT), 7);
    end(&s);
    free(s.text);
    cake_progress_free(NULL);
}

static void *many_updates(void *arg) {
    cake_progress *p = arg;
    for (int round = 0; round < 50; round++) {
        int id = cake_progress_start(p, "thread", 100, CAKE_PROGRESS_BYTES);
        for (unsigned i = 0; i <= 100; i++) {
            cake_progress_update(p, id, i);
            pass(0.001);
        }
        cake_progress_finish(p, id, true, NULL);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    session s;
    begin(&s, 1, false, CAKE_COLOR_NEVER);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, many_updates, s.p), 0);
    for (int i = 0; i < 200; i++) cake_progress_tick(s.p);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    end(&s);
    size_t ended = 0;
    for (char *c = s.text; (c = strstr(c, "thread: 100 B in")); c++) ended++;
    assert_int_equal(ended, 200);
    free(s.text);
}

static void test_table(void **state) {
    (void)state;
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    cake_table *t = cake_table_new("lrl");
    cake_table_add(t, "name"), cake_table_add(t, "n"), cake_table_add(t, "what");
    cake_table_add(t, "\xc3\xa9t\xc3\xa9"), cake_table_add(t, "%d", 1234),
        cake_table_add(t, "%s", "");
    cake_table_add(t, "a\nb"), cake_table_add(t, "5");
    cake_table_print(t, 1, f);
    fclose(f);
    assert_string_equal(text, " name     n  what\n"
                              " \xc3\xa9t\xc3\xa9   1234\n"
                              " a?b      5\n");
    cake_table_free(t);
    cake_table_free(NULL);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bars_on_a_terminal),
        cmocka_unit_test(test_rate_and_eta),
        cmocka_unit_test(test_redraws_are_bounded),
        cmocka_unit_test(test_narrow_and_wide),
        cmocka_unit_test(test_lines_without_a_terminal),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_color),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
