/* The option table of cake-master: names people know from Cake keep their names. */
#include "master/options.h"

#include "common/log.h"
#include "master/ui/progress.h"

#include <stddef.h>
#include <string.h>

_Static_assert(CAKE_LOG_DEBUG == 0 && CAKE_LOG_NONE == 4, "order of level_choices");
_Static_assert(CAKE_COLOR_AUTO == 0 && CAKE_COLOR_NEVER == 2, "order of color_choices");

static const char *const compute_choices[] = {"int8", "f32", NULL};
static const char *const kv_choices[] = {"f16", "q8", NULL};
static const char *const wire_choices[] = {"f32", "f16", "q8", NULL};
static const char *const speculate_choices[] = {"auto", "off", NULL};
static const char *const optimize_choices[] = {"latency", "throughput", NULL};
static const char *const mlx_choices[] = {"none", "affine", "mxfp4", "mxfp8", "nvfp4", NULL};
static const char *const color_choices[] = {"auto", "always", "never", NULL};
static const char *const format_choices[] = {"text", "json", NULL};
static const char *const level_choices[] = {"debug", "info", "warn", "error", "none", NULL};

#define V(verb) (1u << CAKE_VERB_##verb)
enum {
    RUN = V(RUN),
    CHAT = V(CHAT),
    SERVE = V(SERVE),
    TALKS = V(RUN) | V(CHAT),
    SAMPLES = V(RUN) | V(CHAT) | V(SERVE),
    MODEL = V(RUN) | V(CHAT) | V(SERVE) | V(PLAN) | V(BUNDLE) | V(BENCH) | V(DOCTOR) |
            V(PERPLEXITY) | V(CALIBRATE) | V(QUANTIZE),
    PLANS =
        V(RUN) | V(CHAT) | V(SERVE) | V(PLAN) | V(BUNDLE) | V(BENCH) | V(PERPLEXITY) | V(CALIBRATE),
    NET = PLANS | V(WORKERS) | V(DOCTOR),
    KEYS = NET | V(CLUSTER_CREATE) | V(CLUSTER_SHOW) | V(CLUSTER_JOIN) | V(CLUSTER_ROTATE),
    LISTS = V(RUN) | V(PLAN) | V(BUNDLE) | V(WORKERS) | V(CLUSTER_SHOW) | V(BENCH) | V(DOCTOR) |
            V(VERSION) | V(PERPLEXITY) | V(QUANTIZE) | V(INSPECT) | V(VERIFY),
    TEXT = V(PERPLEXITY) | V(CALIBRATE),
    ROOM = PLANS | V(BENCH) | V(DOCTOR),
    CORES = ROOM | V(QUANTIZE) | V(VERIFY),
    QUANT = V(QUANTIZE)
};
#undef V

#define AT(field) offsetof(cake_master_options, field)
static const cake_opt opts[] = {
    {"model", 'm', CAKE_OPT_STRING, AT(model), "DIR", NULL, 0, 0, NULL, MODEL, CAKE_OPT_DIR,
     "Model and prompt",
     "folder with config.json, tokenizer.json and *.safetensors, a GGUF file, or the name of a "
     "model in the Hugging Face cache (ORG/NAME)"},
    {"out", 'o', CAKE_OPT_STRING, AT(out), "PATH", NULL, 0, 0, NULL,
     1u << CAKE_VERB_BUNDLE | 1u << CAKE_VERB_CALIBRATE | QUANT, CAKE_OPT_FILE | CAKE_OPT_CMDLINE,
     "Model and prompt", "folder or file to write to"},

    {"prompt", 'p', CAKE_OPT_TEXT, AT(prompt), "TEXT", NULL, 0, 0, NULL, RUN, CAKE_OPT_CMDLINE,
     "Model and prompt", "the prompt"},
    {"system-prompt", 0, CAKE_OPT_TEXT, AT(system_prompt), "TEXT", NULL, 0, 0, NULL, TALKS, 0,
     "Model and prompt", "system message before the prompt, for models with a chat form"},
    {"raw", 0, CAKE_OPT_FLAG, AT(raw), NULL, NULL, 0, 0, NULL, RUN, 0, "Model and prompt",
     "give the prompt to the model as it is, without its chat form"},
    {"echo", 0, CAKE_OPT_FLAG, AT(echo), NULL, NULL, 0, 0, NULL, RUN, 0, "Model and prompt",
     "print the prompt before the completion"},
    {"sample-len", 'n', CAKE_OPT_INT, AT(sample_len), "N", "512", 0, 1 << 24, NULL, TALKS, 0,
     "Model and prompt", "tokens to generate at most; a chat has no limit unless this is given"},
    {"dump-logits", 0, CAKE_OPT_STRING, AT(dump_logits), "FILE", NULL, 0, 0, NULL, RUN,
     CAKE_OPT_FILE | CAKE_OPT_CMDLINE, "Model and prompt",
     "write the logits of every sampled position to FILE: raw little-endian f32, one row each"},

    {"temperature", 't', CAKE_OPT_FLOAT, AT(temperature), "T", "0.8", 0, 100, NULL, SAMPLES, 0,
     "Sampling", "randomness; 0 always takes the likeliest token"},
    {"top-k", 0, CAKE_OPT_INT, AT(top_k), "K", "40", 0, 1 << 24, NULL, SAMPLES, 0, "Sampling",
     "choose among the K likeliest tokens; 0: all"},
    {"top-p", 0, CAKE_OPT_FLOAT, AT(top_p), "P", "0.95", 0, 1, NULL, SAMPLES, 0, "Sampling",
     "choose among the likeliest tokens that hold probability P together; 1: all"},
    {"min-p", 0, CAKE_OPT_FLOAT, AT(min_p), "P", "0", 0, 1, NULL, SAMPLES, 0, "Sampling",
     "drop tokens less than P times as likely as the likeliest; 0: none"},
    {"repeat-penalty", 0, CAKE_OPT_FLOAT, AT(repeat_penalty), "X", "1", 0.01, 100, NULL, SAMPLES, 0,
     "Sampling", "make tokens that occurred less likely; 1: off"},
    {"repeat-last-n", 0, CAKE_OPT_INT, AT(repeat_last_n), "N", "128", 0, 1 << 24, NULL, SAMPLES, 0,
     "Sampling", "how many tokens the penalties look back; 0: none"},
    {"presence-penalty", 0, CAKE_OPT_FLOAT, AT(presence_penalty), "X", "0", -2, 2, NULL, SAMPLES, 0,
     "Sampling", "subtract X from the logit of every token that occurred"},
    {"frequency-penalty", 0, CAKE_OPT_FLOAT, AT(frequency_penalty), "X", "0", -2, 2, NULL, SAMPLES,
     0, "Sampling", "subtract X from the logit of a token for each time it occurred"},
    {"seed", 0, CAKE_OPT_INT, AT(seed), "N", "-1", -1, 9007199254740992.0, NULL, TALKS, 0,
     "Sampling",
     "seed of the random choice; the same seed gives the same text on any cluster; -1: a new one "
     "each time"},

    {"compute", 0, CAKE_OPT_ENUM, AT(compute), "KIND", "int8", 0, 0, compute_choices, PLANS, 0,
     "Computing", "activations inside the matrix kernels; f32 is slow and for comparing"},
    {"kv", 0, CAKE_OPT_ENUM, AT(kv), "KIND", "f16", 0, 0, kv_choices, PLANS, 0, "Computing",
     "keys and values of past positions; q8 takes about half the memory of f16"},
    {"wire", 0, CAKE_OPT_ENUM, AT(wire), "KIND", "f32", 0, 0, wire_choices, PLANS, 0, "Computing",
     "activations between machines; f32 is exact, the others are for slow links"},
    {"threads", 0, CAKE_OPT_INT, AT(threads), "N", "0", 0, 1024, NULL, CORES, 0, "Computing",
     "threads of this machine's share; 0: one per core"},
    {"context", 'c', CAKE_OPT_INT, AT(context), "N", "0", 0, 1 << 24, NULL, PLANS, 0, "Computing",
     "positions to make room for; 0: what the model was made for, at most 4096"},
    {"memory", 0, CAKE_OPT_BYTES, AT(memory), "BYTES", "0", 0, 0, NULL, ROOM, 0, "Computing",
     "memory of this machine for weights and KV cache, such as 6G; 0: what is free"},
    {"speculate", 0, CAKE_OPT_ENUM, AT(speculate), "WHEN", "auto", 0, 0, speculate_choices, SAMPLES,
     0, "Computing",
     "guess next tokens from the text itself and check several at once, where that pays; the text "
     "stays the same"},
    {"optimize", 0, CAKE_OPT_ENUM, AT(optimize), "GOAL", "latency", 0, 0, optimize_choices, PLANS,
     0, "Computing", "what the plan is best at: one stream, or many at once"},

    {"topology", 0, CAKE_OPT_STRING, AT(topology), "FILE", NULL, 0, 0, NULL, NET, CAKE_OPT_FILE,
     "Cluster", "use the workers of this file instead of looking for some; see cake-topology(5)"},
    {"discovery-timeout", 0, CAKE_OPT_DURATION, AT(discovery_timeout_ms), "TIME", "2s", 0, 3600e3,
     NULL, NET, 0, "Cluster", "how long to look for workers; 0: look for nobody and run alone"},
    {"min-workers", 0, CAKE_OPT_INT, AT(min_workers), "N", "0", 0, 1024, NULL, NET, 0, "Cluster",
     "give layers to at least N workers; waits for them until the discovery timeout and fails "
     "without"},
    {"recover-timeout", 0, CAKE_OPT_DURATION, AT(recover_timeout_ms), "TIME", "30s", 0, 3600e3,
     NULL, RUN | SERVE | CHAT, 0, "Cluster",
     "when workers are lost, how long answers under way wait for a cluster that can go on with "
     "them; then they end with an error"},
    {"name", 0, CAKE_OPT_STRING, AT(name), "NAME", NULL, 0, 0, NULL, NET, 0, "Cluster",
     "what this machine is called in tables; its host name by default"},
    {"address", 0, CAKE_OPT_STRING, AT(address), "HOST:PORT", "0.0.0.0:0", 0, 0, NULL, RUN, 0,
     "Cluster", "accepted for scripts written for Cake; nothing connects to this master"},
    {"cluster-key-file", 0, CAKE_OPT_STRING, AT(cluster_key_file), "FILE", NULL, 0, 0, NULL, KEYS,
     CAKE_OPT_FILE, "Cluster",
     "file with the cluster key; else CAKE_CLUSTER_KEY in the environment, else the stored key"},
    {"insecure", 0, CAKE_OPT_FLAG, AT(insecure), NULL, NULL, 0, 0, NULL, NET, 0, "Cluster",
     "no encryption and no key: anyone on the network can read and join"},
    {"force", 0, CAKE_OPT_FLAG, AT(force), NULL, NULL, 0, 0, NULL,
     1u << CAKE_VERB_CLUSTER_CREATE | 1u << CAKE_VERB_CLUSTER_JOIN | 1u << CAKE_VERB_BUNDLE,
     CAKE_OPT_CMDLINE, "Cluster", "replace what is there: a stored key, written bundles"},
    {"cache", 0, CAKE_OPT_STRING, AT(cache), "DIR", NULL, 0, 0, NULL,
     PLANS | 1u << CAKE_VERB_DOCTOR, CAKE_OPT_DIR, "Cluster",
     "folder for packed weights; ~/.cache/cake by default"},
    {"text", 0, CAKE_OPT_STRING, AT(text), "FILE", NULL, 0, 0, NULL, TEXT,
     CAKE_OPT_FILE | CAKE_OPT_CMDLINE, "Model tools", "the text to measure with, UTF-8"},
    {"chunks", 0, CAKE_OPT_INT, AT(chunks), "N", "0", 0, 1 << 30, NULL, 1u << CAKE_VERB_CALIBRATE,
     CAKE_OPT_CMDLINE, "Model tools", "windows of the text to calibrate with; 0: all of it"},
    {"reference", 0, CAKE_OPT_STRING, AT(reference), "DIR", NULL, 0, 0, NULL,
     1u << CAKE_VERB_PERPLEXITY, CAKE_OPT_DIR | CAKE_OPT_CMDLINE, "Model tools",
     "model to compare with, computed on this machine: KL divergence and how often both find the "
     "same token likeliest"},

    {"api", 0, CAKE_OPT_STRING, AT(api), "HOST:PORT", "127.0.0.1:8080", 0, 0, NULL, SERVE, 0,
     "Serving",
     "address to serve on; one that other machines can reach needs an API key, or "
     "--insecure-no-auth"},
    {"sequences", 0, CAKE_OPT_INT, AT(sequences), "N", "8", 1, 256, NULL, SERVE, 0, "Serving",
     "requests computed at once; each has room for the whole --context"},
    {"queue", 0, CAKE_OPT_INT, AT(queue), "N", "64", 0, 1000, NULL, SERVE, 0, "Serving",
     "requests that may wait; the next is told to come again (429)"},
    {"deadline", 0, CAKE_OPT_DURATION, AT(deadline_ms), "TIME", "1h", 0, 1e9, NULL, SERVE, 0,
     "Serving",
     "a request that is not answered in TIME ends with an error, wherever it is; 0: none"},
    {"api-key-file", 0, CAKE_OPT_STRING, AT(api_key_file), "FILE", NULL, 0, 0, NULL, SERVE | CHAT,
     CAKE_OPT_FILE, "Serving",
     "file with the API keys that clients must send, one a line; CAKE_API_KEY in the environment "
     "holds one more; chat --server sends the first"},
    {"insecure-no-auth", 0, CAKE_OPT_FLAG, AT(insecure_no_auth), NULL, NULL, 0, 0, NULL, SERVE, 0,
     "Serving", "let anyone who reaches the address use it, without an API key"},
    {"tls-cert", 0, CAKE_OPT_STRING, AT(tls_cert), "FILE", NULL, 0, 0, NULL, SERVE, CAKE_OPT_FILE,
     "Serving", "serve HTTPS with this certificate (PEM, with those that lead to its root)"},
    {"tls-key", 0, CAKE_OPT_STRING, AT(tls_key), "FILE", NULL, 0, 0, NULL, SERVE, CAKE_OPT_FILE,
     "Serving", "private key of --tls-cert (PEM, without a password)"},
    {"cors", 0, CAKE_OPT_STRING, AT(cors), "ORIGINS", NULL, 0, 0, NULL, SERVE, 0, "Serving",
     "web pages that may use the server: origins such as https://chat.example, comma-separated; "
     "'*' for all"},
    {"model-name", 0, CAKE_OPT_STRING, AT(model_name), "NAME", NULL, 0, 0, NULL, SERVE, 0,
     "Serving", "what clients call the model; the last part of --model by default"},
    {"chat-template", 0, CAKE_OPT_STRING, AT(chat_template), "FILE", NULL, 0, 0, NULL, SERVE | CHAT,
     CAKE_OPT_FILE, "Serving", "Jinja chat template to use instead of the model's own"},

    {"server", 0, CAKE_OPT_STRING, AT(server), "URL", NULL, 0, 0, NULL, CHAT, 0, "Talking",
     "talk to the OpenAI-compatible server at http:// or https://HOST:PORT instead of running the "
     "model here"},
    {"history", 0, CAKE_OPT_FLAG, AT(history), NULL, "true", 0, 0, NULL, CHAT, 0, "Talking",
     "keep what is typed, to be found again with the arrow keys, in ~/.local/state/cake (only "
     "readable by you); --no-history: do not"},

    {"preset", 0, CAKE_OPT_STRING, AT(preset), "NAME", NULL, 0, 0, NULL, QUANT, CAKE_OPT_CMDLINE,
     "Quantizing", "blocks of ggml, mixed as mlx-kquant does, such as q4_k_m; see --list-presets"},
    {"list-presets", 0, CAKE_OPT_FLAG, AT(list_presets), NULL, NULL, 0, 0, NULL, QUANT,
     CAKE_OPT_CMDLINE, "Quantizing", "print which preset stores what how, and end"},
    {"type", 0, CAKE_OPT_STRING, AT(type), "CODEC", NULL, 0, 0, NULL, QUANT, CAKE_OPT_CMDLINE,
     "Quantizing",
     "one codec for all: q2_k, q3_k, q4_k, q5_k, q6_k, q4_0, q4_1, q5_0, q5_1 or q8_0"},
    {"mlx-bits", 0, CAKE_OPT_INT, AT(mlx_bits), "B", "0", 0, 8, NULL, QUANT, CAKE_OPT_CMDLINE,
     "Quantizing",
     "MLX affine with 2, 3, 4, 5, 6 or 8 bits; 0: 4 when another MLX option is given"},
    {"mlx-group", 0, CAKE_OPT_INT, AT(mlx_group), "G", "0", 0, 128, NULL, QUANT, CAKE_OPT_CMDLINE,
     "Quantizing", "weights that share a scale in MLX affine: 32, 64 or 128; 0: 64"},
    {"mlx-mode", 0, CAKE_OPT_ENUM, AT(mlx_mode), "MODE", "none", 0, 0, mlx_choices, QUANT,
     CAKE_OPT_CMDLINE, "Quantizing", "a mode of MLX; affine is what --mlx-bits says"},
    {"recipe", 0, CAKE_OPT_STRING, AT(recipe), "NAME", NULL, 0, 0, NULL, QUANT, CAKE_OPT_CMDLINE,
     "Quantizing", "MLX affine, mixed as mlx-lm does: mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6"},
    {"imatrix", 0, CAKE_OPT_STRING, AT(imatrix), "FILE", NULL, 0, 0, NULL, QUANT,
     CAKE_OPT_FILE | CAKE_OPT_CMDLINE, "Quantizing",
     "importance matrix that weighs the errors of --preset and --type: of 'calibrate', "
     "mlx-kquant or llama.cpp"},
    {"override", 0, CAKE_OPT_LIST, AT(overrides), "REGEX=TYPE", NULL, 0, 0, NULL, QUANT,
     CAKE_OPT_CMDLINE, "Quantizing",
     "store modules whose path matches as TYPE: float, a codec, or for MLX bits such as 8 or 8g32, "
     "mxfp4, ...; the first that matches counts"},
    {"requantize", 0, CAKE_OPT_FLAG, AT(requantize), NULL, NULL, 0, 0, NULL, QUANT,
     CAKE_OPT_CMDLINE, "Quantizing", "take a model that is quantized already, decoding it first"},
    {"shard-size", 0, CAKE_OPT_BYTES, AT(shard_size), "BYTES", "5GiB", 0, 0, NULL, QUANT,
     CAKE_OPT_CMDLINE, "Quantizing", "begin a new file beyond that many bytes of weights"},

    {"tensors", 0, CAKE_OPT_FLAG, AT(tensors), NULL, NULL, 0, 0, NULL, 1u << CAKE_VERB_INSPECT,
     CAKE_OPT_CMDLINE, "Output", "list every module"},
    {"json", 0, CAKE_OPT_FLAG, AT(json), NULL, NULL, 0, 0, NULL, LISTS, 0, "Output", "print JSON"},
    {"color", 0, CAKE_OPT_ENUM, AT(color), "WHEN", "auto", 0, 0, color_choices, 0, 0, "Output",
     "colours on a terminal; NO_COLOR is respected"},
    {"log-format", 0, CAKE_OPT_ENUM, AT(log_format), "FORM", "text", 0, 0, format_choices, 0, 0,
     "Output", "events on standard error as logfmt lines or as JSON"},
    {"log-level", 0, CAKE_OPT_ENUM, AT(log_level), "LEVEL", "warn", 0, 0, level_choices, 0, 0,
     "Output", "lowest level of events shown"},
    {"quiet", 'q', CAKE_OPT_FLAG, AT(quiet), NULL, NULL, 0, 0, NULL, 0, 0, "Output",
     "no progress, only results and errors"},
    {"verbose", 'v', CAKE_OPT_COUNT, AT(verbose), NULL, NULL, 0, 0, NULL, 0, 0, "Output",
     "show more events; twice for all"},
};

static const cake_verb verbs[CAKE_VERB_COUNT] = {
    [CAKE_VERB_RUN] =
        {"run", "[PROMPT]", 0, 1, "answer one prompt, text on standard output",
         "Looks for workers, plans, sends each its layers, and prints the completion. Without "
         "workers the model runs on this machine alone."},
    [CAKE_VERB_CHAT] =
        {"chat", NULL, 0, 0, "talk with the model",
         "A conversation in the terminal, with the model of --model over the workers that are "
         "found, or with the server of --server. Ctrl-C stops a reply, Ctrl-D leaves, /help lists "
         "the commands, \"\"\" begins and ends a message of many lines. Without a terminal every "
         "line of standard input is a message and the replies go to standard output."},
    [CAKE_VERB_SERVE] =
        {"serve", NULL, 0, 0, "answer HTTP requests as the OpenAI API does",
         "Brings the cluster up once and serves /v1/chat/completions, /v1/responses, "
         "/v1/completions, /v1/messages, /v1/models, "
         "/tokenize, /detokenize, /apply-template, /health and /metrics; /api/v1/topology, "
         "/api/v1/workers "
         "and /api/v1/events for the cluster; and at / a web page with both. The sampling options "
         "are "
         "the defaults of requests that do not say otherwise. Chats need a chat template, the "
         "model's own or --chat-template."},
    [CAKE_VERB_PLAN] =
        {"plan", NULL, 0, 0, "show which machine would hold which layers, and why",
         "Prints stages, memory, expected tokens per second and a reason for each machine, "
         "without loading anything."},
    [CAKE_VERB_BUNDLE] =
        {"bundle", NULL, 0, 0, "write each worker's share of the model to a folder",
         "The files are what the master would send: plain safetensors with only the "
         "worker's tensors, for carrying on a stick."},
    [CAKE_VERB_WORKERS] = {"workers", NULL, 0, 0, "list the workers that can be found", NULL},
    [CAKE_VERB_CLUSTER_CREATE] = {"cluster create", NULL, 0, 0, "make and store a new cluster key",
                                  "Prints the key as words. Type them on the other machines after "
                                  "'cake-master cluster join', or copy the key file."},
    [CAKE_VERB_CLUSTER_SHOW] = {"cluster show", NULL, 0, 0,
                                "show the stored cluster key and its tag", NULL},
    [CAKE_VERB_CLUSTER_JOIN] =
        {"cluster join", NULL, 0, 0, "store the key of an existing cluster",
         "Asks for the words, or reads them from standard input; never from the command line. "
         "--cluster-key-file says where to store them."},
    [CAKE_VERB_CLUSTER_ROTATE] =
        {"cluster rotate", NULL, 0, 0, "replace the stored key by a new one",
         "Prints the new key as words. The other machines join again with 'cake-master cluster "
         "join "
         "--force' and start cake-worker again; whoever has only the old key is out."},
    [CAKE_VERB_BENCH] = {"bench", NULL, 0, 0,
                         "measure prompts and decoding of a model over the cluster", NULL},
    [CAKE_VERB_PERPLEXITY] =
        {"perplexity", NULL, 0, 0, "measure how well a model foretells a text",
         "Prints the perplexity of --text, with its standard error, computed over the cluster as "
         "every other text is. The text is cut into windows of --context positions (512 by "
         "default), each beginning with the model's first token where it has one; every token "
         "after another counts."},
    [CAKE_VERB_CALIBRATE] =
        {"calibrate", NULL, 0, 0, "find out what a model's matrices are fed with, for quantize",
         "Runs --text through the model, over the cluster, and writes the mean square of every "
         "matrix input to --out, an importance matrix that 'quantize --imatrix' and llama.cpp "
         "read. A name with .gguf in it gets llama.cpp's newer form, any other its .dat form. "
         "Windows are those of 'perplexity'."},
    [CAKE_VERB_QUANTIZE] =
        {"quantize", NULL, 0, 0, "make a smaller checkpoint of a model",
         "Reads a checkpoint (f32, f16, bf16; one file or many) a few rows at a time and writes "
         "another to the folder --out, with tokenizer and config: --preset or --type for blocks of "
         "ggml (mlx-kquant's form), an --mlx option for MLX's. The folder appears when it is "
         "complete."},
    [CAKE_VERB_INSPECT] =
        {"inspect", "PATH", 0, 1, "show what a checkpoint, a file of it or a bundle holds",
         "Architecture, size, formats by count and by role, bytes of each layer and what fits into "
         "how much memory. Reads headers only."},
    [CAKE_VERB_VERIFY] =
        {"verify", "[SOURCE] DIR", 0, 2, "check a checkpoint, alone or against what it was made of",
         "Alone: the rules of the files, every tensor the architecture needs, every scale finite, "
         "and the SHA-256 of each file; exit code 1 and a list when something is wrong. With "
         "SOURCE: the relative error and cosine of each tensor of DIR, worst first."},
    [CAKE_VERB_DOCTOR] = {"doctor", NULL, 0, 0,
                          "look for what is wrong with this machine and its network", NULL},
    [CAKE_VERB_VERSION] = {"version", NULL, 0, 0, "show versions, libraries and CPU features",
                           NULL},
};

const cake_cli_program cake_master_program = {
    .name = "cake-master",
    .summary = "run one language model over several machines",
    .intro =
        "Runs one language model over the machines of a network. Start cake-worker on the others; "
        "this "
        "program finds them, gives each a share of the layers, and prints what the model says.",
    .footer = "Examples:\n"
              "  cake-master --model ~/models/story --prompt \"Once upon a time\"\n"
              "  cake-master plan --model ~/models/story --optimize throughput\n"
              "  cake-master run --model ~/models/story --topology home.yml -n 200 \"Hello\"",
    .verbs = verbs,
    .n_verbs = CAKE_VERB_COUNT,
    .default_verb = CAKE_VERB_RUN,
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
};

cake_status cake_master_options_check(cake_master_options *o, const cake_cli *cli,
                                      cake_error *err) {
    bool needs_model = cli->verb == CAKE_VERB_RUN || (cli->verb == CAKE_VERB_CHAT && !o->server) ||
                       cli->verb == CAKE_VERB_SERVE || cli->verb == CAKE_VERB_PLAN ||
                       cli->verb == CAKE_VERB_BUNDLE || cli->verb == CAKE_VERB_BENCH ||
                       cli->verb == CAKE_VERB_PERPLEXITY || cli->verb == CAKE_VERB_CALIBRATE ||
                       (cli->verb == CAKE_VERB_QUANTIZE && !o->list_presets);
    for (size_t i = 0; i < 2; i++)
        o->paths[i] = i < cli->n_args && cli->verb != CAKE_VERB_RUN ? cli->args[i] : NULL;
    if (cli->verb == CAKE_VERB_RUN) {
        if (cli->n_args) {
            if (o->prompt)
                return cake_fail(err, CAKE_EUSAGE,
                                 "there are two prompts, one after --prompt and '%.64s'; give one",
                                 cli->args[0]);
            o->prompt = cli->args[0];
        }
        if (!o->model && !o->prompt && !cli->verb_given)
            return cake_fail(
                err, CAKE_EUSAGE,
                "what shall it do? To run a model: cake-master --model DIR --prompt TEXT");
    }
    if (needs_model && !o->model)
        return cake_fail(err, CAKE_EUSAGE,
                         "'%s' needs a model: --model DIR (or CAKE_MODEL, or "
                         "'model = DIR' in the config file)",
                         cake_master_program.verbs[cli->verb].name);
    if (cli->verb == CAKE_VERB_RUN && !o->prompt)
        return cake_fail(
            err, CAKE_EUSAGE,
            "'run' needs a prompt: --prompt TEXT ('cake-master chat' is a conversation)");
    if (cli->verb == CAKE_VERB_QUANTIZE && !o->list_presets && !o->out)
        return cake_fail(err, CAKE_EUSAGE, "'quantize' needs a folder to make: --out DIR");
    if ((cli->verb == CAKE_VERB_INSPECT || cli->verb == CAKE_VERB_VERIFY) && !o->paths[0])
        return cake_fail(err, CAKE_EUSAGE, "'%s' needs a path, such as the folder of a model",
                         cake_master_program.verbs[cli->verb].name);
    const bool scores = cli->verb == CAKE_VERB_PERPLEXITY || cli->verb == CAKE_VERB_CALIBRATE;
    if (scores && !o->text)
        return cake_fail(err, CAKE_EUSAGE, "'%s' needs a text: --text FILE",
                         cake_master_program.verbs[cli->verb].name);
    if (cli->verb == CAKE_VERB_CALIBRATE && !o->out)
        return cake_fail(err, CAKE_EUSAGE, "'calibrate' needs a file to write to: --out FILE");
    if (scores && o->context == 1)
        return cake_fail(err, CAKE_EUSAGE,
                         "a window of one position foretells nothing: --context 2 or more");
    if (cli->verb == CAKE_VERB_BUNDLE && !o->out)
        return cake_fail(err, CAKE_EUSAGE, "'bundle' needs a folder to write to: --out DIR");
    if (!o->tls_cert != !o->tls_key)
        return cake_fail(err, CAKE_EUSAGE, "--tls-cert and --tls-key go together; give both");
    if (o->insecure && o->cluster_key_file) {
        /* The nearer word counts: a key file in the config does not stop a typed --insecure. */
        cake_cli_source open_from = cake_cli_source_of(&cake_master_program, cli, "insecure");
        cake_cli_source key_from =
            cake_cli_source_of(&cake_master_program, cli, "cluster-key-file");
        if (open_from == key_from)
            return cake_fail(err, CAKE_EUSAGE,
                             "--insecure and --cluster-key-file exclude each other");
        if (key_from > open_from)
            o->insecure = false;
        else
            o->cluster_key_file = NULL;
    }
    if (o->min_workers > 0 && !o->topology && o->discovery_timeout_ms == 0)
        return cake_fail(
            err, CAKE_EUSAGE,
            "--min-workers %lld with --discovery-timeout 0 cannot be met: no worker is looked "
            "for; drop one of them or give --topology FILE",
            (long long)o->min_workers);
    return CAKE_OK;
}
