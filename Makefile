# One Makefile, no recursion. Each variant owns build/<variant>/, so no "make clean" between them.
.DEFAULT_GOAL := all
VARIANT ?= release
B       := build/$(VARIANT)
# The release programs lie directly in build/, where users and scripts look for them.
BIN     := $(if $(filter release,$(VARIANT)),build,$(B))
PREFIX  ?= /usr/local
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
        -Wmissing-prototypes -Wvla -Wformat=2 -Wundef -Wcast-qual -Wwrite-strings $(if $(CI),-Werror)
VF_release := -O3 -g
VF_debug   := -O0 -g3 -DCAKE_DEBUG
VF_asan    := -O1 -g -DCAKE_DEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
VF_tsan    := -O1 -g -DCAKE_DEBUG -fsanitize=thread
VF_cov     := -O0 -g --coverage
VF_fuzz    := $(VF_asan) -fsanitize=fuzzer-no-link
VERSION := 0.1.0
override CPPFLAGS += -I. -I$(B)/gen -D_GNU_SOURCE -DCAKE_VERSION='"$(VERSION)"'
# -ffp-contract=off: the compiler must never fuse what the source does not fuse (same bits everywhere).
override CFLAGS   += -std=c11 $(WARN) -ffp-contract=off -ffunction-sections -fdata-sections \
                     -fstack-protector-strong $(VF_$(VARIANT)) -MMD -MP
override LDFLAGS  += -Wl,--gc-sections -Wl,--as-needed

# Only files whose name ends in _<isa>.c get ISA flags; everything else stays at the baseline.
ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
ifeq ($(ARCH),x86_64)
ISA_avx2   := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
ISA_avx512vbmi := $(ISA_avx512) -mavx512vbmi
else ifeq ($(ARCH),aarch64)
ISA_neon   := -march=armv8.2-a+dotprod+fp16
endif
# They go without ThreadSanitizer, with which gcc 12 loses AVX-512 mask registers (wrong results); kernels have no threads.
isa = $(ISA_$(lastword $(subst _, ,$(basename $(notdir $1)))))

WORKER_LIBS := -lzmq -lcrypto -lavahi-common -ljson-c -lm -pthread
MASTER_LIBS := $(WORKER_LIBS) -lyaml -lpcre2-8 -lutf8proc -ledit -levent_core -levent_openssl -lssl

src    = $(wildcard $(foreach d,$1,$d/*.c $d/*/*.c))
obj    = $(patsubst %.c,$(B)/%.o,$1)
DIRS  := common proto kernels worker master
MODS  := $(filter-out worker/main.c master/main.c,$(call src,$(DIRS)))
LIB   := $(B)/libcake.a
UNIT  := $(patsubst %.c,$(B)/%,$(wildcard tests/unit/*.c))
TOOLS := $(patsubst %.c,$(B)/%,$(wildcard tests/tools/*.c))
BENCH := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/*.c))
FUZZ  := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAY := $(patsubst tests/fuzz/fuzz_%.c,$(B)/tests/fuzz/replay_%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all build-all test unit bench bench-check bench-model bench-serve bench-http fuzz fuzz-bins asan tsan cov clang-check lint format check-format check-deps man install uninstall clean help demo reference
.SECONDARY:
all: $(BIN)/cake-master $(BIN)/cake-worker              ## build both programs into build/
$(BIN)/cake-master: $(B)/master/main.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ $(MASTER_LIBS) -o $@
$(BIN)/cake-worker: $(B)/worker/main.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ $(WORKER_LIBS) -o $@
$(LIB): $(call obj,$(MODS))
	@rm -f $@; $(AR) rcs $@ $^
$(UNIT): $(B)/%: $(B)/%.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ -lcmocka $(MASTER_LIBS) -o $@
$(BENCH) $(TOOLS): $(B)/%: $(B)/%.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ $(MASTER_LIBS) -o $@
$(FUZZ): $(B)/%: $(B)/%.o $(LIB)
	$(CC) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) $^ $(MASTER_LIBS) -o $@
# The same targets with a main that feeds them files: corpora are replayed by any compiler in make test.
$(REPLAY): $(B)/tests/fuzz/replay_%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/replay.o $(LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) $^ $(MASTER_LIBS) -o $@
$(B)/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(if $(call isa,$*),$(filter-out -fsanitize=thread,$(CFLAGS)),$(CFLAGS)) $(call isa,$*) -c $< -o $@
# The web page as lists of numbers that C includes; its scripts are one, in this order.
PAGE := master/page/
$(B)/gen/page/page.js.inc: $(addprefix $(PAGE),base.js markdown.js chat.js cluster.js main.js)
$(B)/gen/page/page.css.inc: $(PAGE)page.css
$(B)/gen/page/page.html.inc: $(PAGE)page.html
$(B)/gen/page/%.inc:
	@mkdir -p $(@D); cat $^ | od -An -v -tu1 | sed 's/[0-9][0-9]*/&,/g' >$@.tmp && mv $@.tmp $@
PAGE_INC := $(addprefix $(B)/gen/page/page.,js.inc css.inc html.inc)
$(B)/$(PAGE)page.o lint clang-check: $(PAGE_INC)
# Rebuild when compiler or flags change.
$(B)/.flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(CPPFLAGS) $(CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(CFLAGS)' > $@
FORCE:

# Left out under a sanitizer: emulated NEON, the same bits on each ISA, the test hosts themselves (no code of ours that the
# others do not run), the browser (serve, chat and cluster_api ask the same of the server), and perplexity (single-threaded arithmetic that test_reference covers; over 10 minutes under tsan).
# ThreadSanitizer also passes over what starts no thread.
ALONE := answer|attn|checkpoint|cli|codec|config|control|experts|gguf|grammar|imatrix|layout|matmul|pace|pack|planner|prefix|rope|safetensors|sampler|template|topology|units|vec|wire
SKIP_asan := /(neon|neon_vec|isa|arm64|hosts|page)[.]sh|/test_perplexity
SKIP_tsan := $(SKIP_asan)|/test_($(ALONE))$$|/fuzz_replay[.]sh
test: check-deps all $(UNIT) $(TOOLS) $(REPLAY)         ## every test that needs no GPU and no outside network
	@B=$(B) BIN=$(BIN) TEST_SKIP="$${TEST_SKIP-$(SKIP_$(VARIANT))}" tests/run.sh $(UNIT) $(filter-out %/lib.sh,$(wildcard tests/integration/*.sh))
build-all: all $(UNIT) $(TOOLS) $(BENCH) $(REPLAY)      ## compile everything, run nothing
unit: $(UNIT)                                           ## unit tests only
	@B=$(B) BIN=$(BIN) tests/run.sh $(UNIT)
bench: $(BENCH)                                         ## kernel micro-benchmarks, JSON lines
	@set -e; for t in $(BENCH); do $$t; done
bench-check: $(BENCH)                                   ## run them and list the cases under their bar
	@for t in $(BENCH); do $$t || exit 1; done | sh tests/bench/check.sh
bench-model: all $(B)/tests/tools/make_model            ## a model of a real shape: one node, two workers, memory, sizes
	@tests/bench/model.sh
bench-serve: all $(addprefix $(B)/tests/,tools/make_model tools/serve_figures tools/delay bench/bench_link bench/bench_matmul) ## streams, prompts, chats and guesses over two stages
	@tests/bench/serve.sh
bench-http: all $(B)/tests/tools/make_model            ## what HTTP costs: time per streamed token, memory of idle streams
	@python3 tests/bench/bench_http.py
asan tsan:                                              ## run the unit and integration tests under a sanitizer
	$(MAKE) VARIANT=$@ test
reference:                                              ## make the goldens again with the real mlx, mlx-lm, transformers and compare
	@sh tests/reference/run.sh
cov:                                                    ## line coverage
	$(MAKE) VARIANT=cov test
	@find build/cov -name '*.gcda' | grep -v /tests/ | xargs gcov -n 2>/dev/null | grep -A1 -E "^File '(common|proto|kernels|worker|master)"
fuzz:                                                   ## build the fuzz targets (clang, libFuzzer)
	$(MAKE) VARIANT=fuzz CC=clang fuzz-bins
fuzz-bins: $(FUZZ)
clang-check:                                            ## clang's warnings over every source, compiling nothing
	@printf '%s\n' $(call src,$(DIRS)) $(wildcard tests/*/*.c) | xargs -n1 -P2 sh -c 'clang -fsyntax-only $(filter-out -DCAKE_VERSION%,$(CPPFLAGS)) -DCAKE_VERSION=\"$(VERSION)\" $(filter-out -MMD -MP,$(CFLAGS)) $$(sh tests/isa-flags.sh "$$0") "$$0"'
check-deps:                                             ## enforce the include boundaries
	@sh tests/check-deps.sh
compile_commands.json: Makefile                         ## for clangd / clang-tidy
	bear -- $(MAKE) -B VARIANT=debug all
lint:                                                   ## clang-tidy, one process per file
	@printf '%s\n' $(call src,$(DIRS)) | xargs -n1 -P2 sh -c 'clang-tidy --quiet "$$0" -- -std=c11 $(filter-out -MMD -MP,$(CPPFLAGS)) $$(sh tests/isa-flags.sh "$$0")'
format check-format: FORMATTED = $(wildcard */*.[ch] */*/*.[ch] */*/*/*.[ch])
format:                                                 ## clang-format every source in place
	clang-format -i $(FORMATTED)
check-format:                                           ## every source as clang-format would leave it?
	@clang-format --dry-run --Werror $(FORMATTED)
man: all                                                ## make the man pages from the option tables
	@sh deploy/man/make.sh $(BIN)/cake-master deploy/man/cake-master.1.in >deploy/man/cake-master.1
	@sh deploy/man/make.sh $(BIN)/cake-worker deploy/man/cake-worker.1.in >deploy/man/cake-worker.1
install: all                                            ## PREFIX=, DESTDIR=
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) sh deploy/install.sh
uninstall:                                              ## remove what install put there
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) sh deploy/install.sh uninstall
demo:                                                   ## two workers and a master on this machine tell a story
	@sh deploy/demo.sh
clean:
	rm -rf build
help:
	@grep -hE '^[a-z_. -]+[a-z.]*:.*##' Makefile | sed -E 's/:.*##/\t/'
-include $(shell find $(B) -name '*.d' 2>/dev/null)
