// SPDX-License-Identifier: GPL-2.0-only
/*
 * Torture of device memory and of mirrored address spaces: everything at once.
 *
 * Processes with threads do random operations on memory while it migrates to
 * devices and back, and while CPUs and devices read and write it. Other
 * processes change the settings of mm, stop and kill the first ones, and fill a
 * device to its last page. The oracle (hmm_race_oracle.h) judges each word that
 * is read. At the end no page may be left on a device, and no charge, no pin
 * and no isolated page.
 *
 * Processes
 *
 *   main		starts, stops, kills and replaces the workers, and
 *			watches their progress. It does not touch the memory,
 *			and stays out of the memory cgroup.
 *   workers		occupy slots. Their threads pick operations of a table.
 *			A worker may be killed at any time, by main or by the
 *			OOM killer. Another one takes its slot.
 *   children		check the memory that they inherit from a worker.
 *   meddler		changes settings, compacts, injects faults, and removes
 *			the memory of devices.
 *   filler		takes all memory of a coherent device and frees it,
 *			again and again.
 *
 * Memory
 *
 *   Each worker has regions of its own, and maps regions that all share, all at
 *   the same addresses. A region consists of blocks. The records of the blocks
 *   are in shared memory that is not tortured.
 *
 * Locks
 *
 *   "contents" of a block is held while its contents change. It is robust: its
 *   owner may be killed, and then the change stays open until another one
 *   writes all of the block. Several are taken in the order of their addresses.
 *   "busy" of a mapping excludes others that change the mapping of the block.
 *   It is only tried, after contents.
 *
 *   Readers take no lock. An access may fail by SIGSEGV, SIGBUS or an error if
 *   there is a cause at that time: a barred mapping or an injected fault.
 *
 * The dummy device
 *
 *   The base's driver has bugs of its own, see hmm-migrate-race.c. With it, a
 *   device that migrates does not read, children share the table of files with
 *   their parent, and the memory of devices is not removed. A driver that knows
 *   HMM_DMIRROR_FLAGS is ours, and gets all operations, those of large folios
 *   if there are huge pages of an ordinary size.
 *
 * Findings
 *
 *   Each is a line "# FINDING: ...", which scripts look for. A failed result
 *   has at least one.
 *
 * Threads do not call malloc(), which could map memory where a block has just
 * been unmapped.
 */
#define _GNU_SOURCE
#include "hmm_torture_filler.h"
#include "hmm_torture_meddler.h"
#include "hmm_torture_memory.h"
#include "hmm_torture_ops.h"
#include "hmm_torture_regions.h"
#include "hmm_torture_rest.h"
#include "hmm_torture_worker.h"

static const char *const results[NR_RESULTS] = {
	[WORDS] = "every word that is read was written there",
	[ERRORS] = "every error has a cause",
	[PROCESSES] = "all processes make progress and end",
	[EFFECT] = "every operation had an effect",
	[DEVICE_PAGES] = "all device pages are free at the end",
	[CHARGES] = "no charge is left in the cgroup",
	[COUNTERS] = "counters and free memory are as before",
};

struct guard {
	uint64_t random;
	pid_t meddler, filler;
	time_t start, lasted;
	bool our_swap;
	unsigned long progress[MAX_SLOTS];
	time_t moved[MAX_SLOTS];
	pid_t stopped[MAX_SLOTS];
	long oom_kills;
	struct usage before;
};

static pid_t start_process(const char *what)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		complain(PROCESSES, "fork of a %s: %s\n", what,
			 strerror(errno));
	return pid;
}

/* The incarnation changes first, so that readers of the old worker see it. */
static void start_worker(struct guard *g, unsigned int i)
{
	struct slot *s = &control->slots[i];
	pid_t pid;

	s->ready = false;
	s->incarnation++;
	memset(s->mappings, 0, sizeof(s->mappings));
	for (unsigned int r = 0; r < NR_OWN; r++)
		set_up_blocks(s->own[r], hole_leaves(&regions[r]));
	g->moved[i] = race_now();
	g->stopped[i] = 0;
	pid = start_process("worker");
	if (!pid) {
		slot = s;
		worker_process();
	}
	s->pid = pid;
}

static void check_end(const char *who, int status)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return;
	if (status && !(WIFEXITED(status) &&
			WEXITSTATUS(status) == KSFT_FAIL))
		complain(PROCESSES, "a %s ends with status %#x\n", who,
			 status);
}

static void bury(struct guard *g, pid_t pid, int status)
{
	if (pid == g->meddler)
		g->meddler = 0;
	if (pid == g->filler)
		g->filler = 0;
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid == pid)
			control->slots[i].pid = 0;
	check_end("process", status);
}

/* Including the children of killed workers. */
static void reap(struct guard *g)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		bury(g, pid, status);
}

static void fill_slots(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid <= 0)
			start_worker(g, i);
	if (!g->meddler) {
		g->meddler = start_process("meddler");
		if (!g->meddler)
			meddler_process(g->our_swap);
	}
	if (!g->filler && have_device[2] && is_wanted("filler")) {
		g->filler = start_process("filler");
		if (!g->filler)
			filler_process();
	}
}

static void stop_or_continue(struct guard *g)
{
	unsigned int i = race_below(&g->random, options.slots);

	if (g->stopped[i]) {
		kill(g->stopped[i], SIGCONT);
		g->stopped[i] = 0;
	} else if (control->slots[i].pid > 0) {
		g->stopped[i] = control->slots[i].pid;
		kill(g->stopped[i], SIGSTOP);
		control->stops++;
	}
}

static void continue_all(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++)
		if (g->stopped[i])
			kill(g->stopped[i], SIGCONT);
	memset(g->stopped, 0, sizeof(g->stopped));
}

static void kill_one(struct guard *g)
{
	unsigned int i = race_below(&g->random, options.slots);

	if (control->slots[i].pid <= 0)
		return;
	kill(control->slots[i].pid, SIGKILL);
	control->kills++;
}

/*
 * A worker may wait for the lock of one that is stopped, which continues soon.
 */
static void watch_progress(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++) {
		unsigned long progress = control->slots[i].progress;

		if (progress != g->progress[i]) {
			g->progress[i] = progress;
			g->moved[i] = race_now();
		}
		if (race_now() - g->moved[i] <= (time_t)options.patience)
			continue;
		complain(PROCESSES, "worker %u: no progress for %lu s\n", i,
			 options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
		race_write_file("/proc/sysrq-trigger", "l");
		g->moved[i] = race_now();
	}
}

static void guard_tick(struct guard *g)
{
	race_pause_ms(20);
	reap(g);
	fill_slots(g);
	if (!race_below(&g->random, 12) && is_wanted("stop"))
		stop_or_continue(g);
	if (!race_below(&g->random, 100) && is_wanted("kill"))
		kill_one(g);
	watch_progress(g);
}

/* Runs of at least this many seconds must have the rare events, too. */
#define LONG_RUN	100

static bool lacks_kills(void)
{
	return is_wanted("kill") && !control->kills;
}

static bool lacks_filling(void)
{
	return is_wanted("filler") && !control->filled;
}

static bool lacks_effect(void)
{
	for (size_t i = 0; i < nr_ops; i++)
		if (op_lacks_effect(i))
			return true;
	if (meddler_lacks_effect())
		return true;
	return options.all_needed && options.seconds >= LONG_RUN &&
	       (lacks_kills() || lacks_filling());
}

/* A slow machine needs longer for all effects: up to ten times as long. */
static bool has_time(const struct guard *g)
{
	time_t seconds = options.seconds, passed = race_now() - g->start;

	return passed < seconds || (passed < 10 * seconds && lacks_effect());
}

static void guard_loop(struct guard *g)
{
	time_t said = g->start;

	while (has_time(g) && !control->complaints) {
		guard_tick(g);
		if (race_now() < said + 60)
			continue;
		said = race_now();
		note("%ld s, %lu words right\n", (long)(said - g->start),
		     control->words);
	}
	g->lasted = race_now() - g->start;
}

static bool some_live(struct guard *g)
{
	reap(g);
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid > 0)
			return true;
	return g->meddler > 0 || g->filler > 0;
}

static void end_processes(struct guard *g)
{
	control->over = true;
	continue_all(g);
	race_write_file(MEMCG "/work/memory.max", "max");
	race_write_file(MEMCG "/work/memory.high", "max");
	if (!race_wait_for(!some_live(g), options.patience)) {
		complain(PROCESSES, "processes still run after %lu s\n",
			 options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
	}
	race_write_file(MEMCG "/cgroup.kill", "1");
	race_wait_for(waitpid(-1, NULL, WNOHANG) < 0, options.patience);
}

static void look_at_shared(void)
{
	pid_t pid = start_process("last look");
	int status;

	if (!pid)
		last_look();
	if (!race_wait_child(pid, options.patience, &status)) {
		race_write_file("/proc/sysrq-trigger", "w");
		complain(PROCESSES, "the last look still runs after %lu s\n",
			 options.patience);
		kill(pid, SIGKILL);
	} else if (status) {
		complain(PROCESSES, "the last look fails: status %#x\n",
			 status);
	}
}

/* This works only when no page of the device is in use any more. */
static void release_device(unsigned int nr)
{
	int status = race_release_device(nr, options.patience);

	if (status < 0)
		complain(DEVICE_PAGES, "pages of device %u are still in use after %lu s\n",
			 nr, options.patience);
	else if (status)
		complain(DEVICE_PAGES, "release of device %u: status %#x\n",
			 nr, status);
}

static void release_devices(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (have_device[i])
			release_device(i);
}

/* Swapped pages that were lost would keep it from being turned off. */
static void check_swap(const struct guard *g)
{
	if (!g->our_swap)
		return;
	race_swap_end(true);
	if (race_swap_exists())
		complain(COUNTERS, "swap cannot be turned off: %s\n",
			 strerror(errno));
}

/* Setting up */

static void find_devices(void)
{
	int fd;

	for (unsigned int i = 0; i < DEVICES; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/dev/hmm_dmirror%u", i);
		have_device[i] = !access(path, R_OK | W_OK);
	}
	if (!have_device[0] || !have_device[1])
		ksft_exit_skip("no /dev/hmm_dmirror*: load test_hmm\n");
	fd = race_open_device(0);
	own_driver = fd >= 0 && !race_device(fd, HMM_DMIRROR_FLAGS, NULL,
					     HMM_DMIRROR_FLAG_FAIL_ALLOC, NULL);
	large_folios = own_driver && region_size == race_huge_size() &&
		       !race_device(fd, HMM_DMIRROR_FLAGS, NULL,
				    HMM_DMIRROR_FLAG_HOLE_ORDER(2ULL), NULL);
	close(fd);
}

/* Results */

/* A line is printed when it is long enough. */
static void report_op(char *line, size_t size, size_t i)
{
	size_t len = strlen(line);

	snprintf(line + len, size - len, "%s %lu/%lu, ", ops[i].name,
		 control->done[i], control->tried[i]);
	if (strlen(line) <= 160)
		return;
	note("%s\n", line);
	*line = 0;
}

static void report_ops(void)
{
	char line[256] = "";

	for (size_t i = 0; i < nr_ops; i++) {
		if (ops[i].off)
			continue;
		report_op(line, sizeof(line), i);
		if (op_lacks_effect(i))
			complain(EFFECT, "%s: no effect in %lu attempts\n",
				 ops[i].name, control->tried[i]);
	}
	if (*line)
		note("%s\n", line);
}

static void report_lack(const char *what, bool lacking)
{
	if (options.all_needed && lacking)
		complain(EFFECT, "%s took no part\n", what);
}

static void report_needs(const struct guard *g)
{
	bool lasted = g->lasted >= LONG_RUN;

	note("direct I/O: %d, gup_test: %d, userfaultfd: %d, large folios: %d, injection: %d\n",
	     control->has[DIRECT_IO], control->has[GUP_TEST],
	     control->has[USERFAULTFD], large_folios, can_inject);
	report_lack("direct I/O", !control->has[DIRECT_IO]);
	report_lack("gup_test", !control->has[GUP_TEST]);
	report_lack("userfaultfd", !control->has[USERFAULTFD]);
	report_lack("large folios", !large_folios);
	report_lack("fault injection", is_wanted("injection") && !can_inject);
	report_lack("kills", lasted && lacks_kills());
	report_lack("the filler of a device", lasted && lacks_filling());
}

static void report(const struct guard *g)
{
	report_ops();
	report_meddles();
	report_needs(g);
	note("%lu killed, %ld by the OOM killer, %lu stopped, device filled %lu times\n",
	     control->kills, g->oom_kills, control->stops, control->filled);
	note("%ld s, %lu words right, %lu pages not judged, %lu errors with a cause\n",
	     (long)(race_now() - g->start), control->words, control->unjudged,
	     control->excused);
}

static void check_what_is_left(struct guard *g)
{
	race_run_ksm("2");
	check_private_file();
	drop_regions();
	release_devices();
	/* this drains the batches of the CPUs, whose pages are charged */
	race_write_file("/proc/sys/vm/drop_caches", "3");
	check_group("/work");
	check_group("/fill");
	rmdir(MEMCG);
	check_swap(g);
	check_counters();
	check_free(&g->before);
}

static void torture(struct guard *g)
{
	const char *why = set_up_cgroup();

	if (!why)
		why = race_swap_begin(&g->our_swap);
	if (why)
		ksft_exit_skip("%s\n", why);
	release_devices();
	g->before = usage_now();
	set_up_lock(&control->gup_lock);
	gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC);
	make_regions();
	set_up_injection();
	hurry_khugepaged();
	g->start = race_now();
	guard_loop(g);
	end_processes(g);
	end_injection();
	if (!control->wrong[PROCESSES])
		look_at_shared();
	g->oom_kills = race_read_number(MEMCG "/work/memory.events",
					"oom_kill");
	check_what_is_left(g);
	report(g);
}

/*
 * A region has room for one PMD-mapped huge page if that is of an ordinary
 * size. The huge pages of large base pages would be larger than the memory.
 */
static void choose_sizes(void)
{
	size_t huge = race_huge_size();

	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint32_t);
	block_pages = 2;
	if (huge >= NR_BLOCKS * block_pages * page_size &&
	    huge <= NR_BLOCKS * MAX_BLOCK_PAGES * page_size)
		block_pages = huge / NR_BLOCKS / page_size;
	else
		race_note_huge_size(huge);
	block_size = block_pages * page_size;
	block_words = block_pages * page_words;
	region_size = NR_BLOCKS * block_size;
}

#define USAGE	"usage: %s [-s seed] [-t seconds] [-p processes] [-j threads] " \
		"[-w seconds of patience] [-d directory for files] "		\
		"[-o only,these] [-x without,these] [-r: require everything]\n"

static void parse(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "s:t:p:j:w:d:o:x:r")) != -1) {
		if (opt == 's')
			options.seed = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			options.seconds = strtoul(optarg, NULL, 0);
		else if (opt == 'p')
			options.slots = strtoul(optarg, NULL, 0);
		else if (opt == 'j')
			options.threads = strtoul(optarg, NULL, 0);
		else if (opt == 'w')
			options.patience = strtoul(optarg, NULL, 0);
		else if (opt == 'd')
			options.directory = optarg;
		else if (opt == 'o')
			options.only = optarg;
		else if (opt == 'x')
			options.without = optarg;
		else if (opt == 'r')
			options.all_needed = true;
		else
			ksft_exit_fail_msg(USAGE, argv[0]);
	}
	if (!options.slots || options.slots > MAX_SLOTS || !options.threads ||
	    options.threads > MAX_THREADS)
		ksft_exit_fail_msg(USAGE, argv[0]);
}

int main(int argc, char **argv)
{
	static struct guard guard;

	ksft_print_header();
	options.seed = time(NULL);
	parse(argc, argv);
	choose_sizes();
	find_devices();
	choose_ops();
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	ksft_print_msg("seed %llu, %lu s, %u processes of %u threads, %s driver\n",
		       (unsigned long long)options.seed, options.seconds,
		       options.slots, options.threads,
		       own_driver ? "own" : "the base's");
	ksft_set_plan(NR_RESULTS);
	guard.random = race_mix(options.seed);
	torture(&guard);
	for (unsigned int i = 0; i < NR_RESULTS; i++)
		ksft_test_result(!control->wrong[i], "%s\n", results[i]);
	ksft_finished();
}
