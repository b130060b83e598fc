// SPDX-License-Identifier: GPL-2.0-only
/*
 * Torture of device memory and of the mirror: everything at once.
 *
 * Processes with threads do at random whatever can be done to memory, while it
 * moves to devices and back, and is read and written by CPUs and devices. Other
 * processes flip the settings of mm, stop and kill them, and fill a device to
 * its last page. Each word that anybody reads must be one that may have been
 * written there: hmm_race_common.h says how that is known. At the end nothing
 * may be left: no page on a device, no charge, no pin, no isolated page.
 *
 * Who is there
 *
 *   main		starts, stops, kills and replaces the workers, and sees
 *			that they get on. It touches none of the memory, and
 *			stays out of the memory cgroup.
 *   workers		processes in slots, with threads that pick operations of
 *			a table. A worker may die at any time, by main's hand or
 *			by the OOM killer's; another takes its slot.
 *   children		forked by a worker for one check of what it inherits.
 *   meddler		flips settings, compacts, injects faults, unplugs.
 *   filler		takes all of a coherent device's memory, and gives it
 *			back, again and again.
 *
 * Memory
 *
 *   Each worker has regions of its own, and maps regions that all share, all
 *   at the same addresses. What is known of their contents is in memory that
 *   all share and nobody tortures. A region is divided into blocks.
 *
 * Locks
 *
 *   "contents" of a block is for those who change what is in it. It is robust:
 *   its owner may be killed, and the change then stays open until somebody
 *   makes a whole one. Several are taken in the order of their addresses.
 *   "busy" of a mapping keeps out of each other those who take the mapping of
 *   a block away. It is only ever tried, after contents.
 *
 *   Readers take nothing. A CPU access may fail, by SIGSEGV or SIGBUS, and any
 *   other may by an error, if there is a cause for it at that time: a mapping
 *   that was taken away or a fault that was injected.
 *
 * The dummy device
 *
 *   The base's has faults of its own, see hmm-migrate-race.c, so a device that
 *   migrates does not read there, children share the table of files with their
 *   parent, and nobody unplugs. One that knows HMM_DMIRROR_FLAGS is ours, and
 *   gets all of it.
 *
 * Thread-safe C only: threads do not call malloc(), which could map memory
 * where a block has just been taken away.
 */
#define _GNU_SOURCE
#include <glob.h>

#include "hmm_torture_memory.h"
#include "hmm_torture_ops.h"

/* Workers */

static void *memory(size_t size, int prot)
{
	void *addr = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must_have(addr != MAP_FAILED, "memory");
	return addr;
}

static int open_scratch(unsigned int index)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/hmm-torture.%d.%u",
		 options.directory, getpid(), index);
	fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	unlink(path);
	if (fd >= 0)
		control->has[DIRECT_IO] = true;
	return fd;
}

static void set_up_worker(struct worker *w, unsigned int index)
{
	w->index = index;
	w->random = race_mix(options.seed ^
			     race_mix((uint64_t)(slot - control->slots) << 40 |
				      (uint64_t)slot->incarnation << 8 |
				      index));
	/* one page more for what runs into the gap */
	w->buffer = memory(REGION_SIZE + PAGE_SIZE, PROT_READ | PROT_WRITE);
	w->spare = memory(3 * PAGE_SIZE + BLOCK_SIZE, PROT_NONE);
	must_have(!pipe(w->pipe), "pipe");
	must_have(fcntl(w->pipe[1], F_SETPIPE_SZ, BLOCK_SIZE) >= 0,
		  "size of a pipe");
	w->scratch = open_scratch(index);
	w->fail_nth = -1;
}

static void run_op(struct worker *w)
{
	size_t i = pick_op(w);

	if (can_inject && one_in(w, 20))
		inject(w, 1 + below(w, 12));
	control->ops++;
	control->tried[i]++;
	control->done[i] += ops[i].run(w);
	inject_no_more(w);
	slot->progress++;
}

static void *work(void *arg)
{
	self = arg;
	if (can_inject) {
		self->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
		race_write_file("/proc/thread-self/make-it-fail", "1");
	}
	while (!control->over)
		run_op(self);
	race_write_file("/proc/thread-self/make-it-fail", "0");
	return NULL;
}

static void set_up_region(struct region *region)
{
	region->slot = slot;
	region->id = region_id(region->nr, slot);
	region->mappings = slot->mappings[region->nr];
	if (is_own(region))
		region->blocks = slot->own[region->nr];
	if (region->nr != SHARED_ANON)
		must_have(map_memory(region, region->addr, REGION_SIZE,
				     MAP_FIXED), "region");
}

/* The cgroup may be at its limit when a process that was killed is replaced. */
static int open_device_surely(unsigned int nr)
{
	int fd = race_open_device(nr);

	for (unsigned int try = 0; fd < 0 && try < 1000; try++) {
		usleep(10000);
		fd = race_open_device(nr);
	}
	must_have(fd >= 0, "device");
	return fd;
}

static void set_up_process(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (have_device[i])
			devices[i] = open_device_surely(i);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uffd = open_uffd();
	if (uffd >= 0)
		control->has[USERFAULTFD] = true;
	if (gup_fd >= 0)
		control->has[GUP_TEST] = true;
	catch_faults();
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		set_up_region(&regions[i]);
}

/* Nothing moves any more, so a device can read it all, too. */
static void check_regions(struct worker *w, unsigned int first,
			  unsigned int end)
{
	self = w;
	for (unsigned int r = first; r < end; r++) {
		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			struct span s = { &regions[r], b, 1 };

			cpu_read_block(w, "CPU read at the end", &s);
			device_read_span(w, "device read at the end",
					 far_device(w), HMM_DMIRROR_READ, &s);
		}
	}
}

#define MEMCG		"/sys/fs/cgroup/hmm-torture"

static void enter_cgroup(const char *procs)
{
	must_have(!race_write_file(procs, "0"), "move to the cgroup");
}

static void worker_process(void)
{
	static struct worker workers[MAX_THREADS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(MEMCG "/work/cgroup.procs");
	set_up_process();
	slot->ready = true;
	for (unsigned int i = 0; i < options.threads; i++)
		set_up_worker(&workers[i], i);
	for (unsigned int i = 0; i < options.threads; i++)
		must_have(!pthread_create(&workers[i].thread, NULL, work,
					  &workers[i]), "thread");
	for (unsigned int i = 0; i < options.threads; i++)
		pthread_join(workers[i].thread, NULL);
	check_regions(&workers[0], 0, NR_OWN);
	_exit(KSFT_PASS);
}

/* The shared regions, when all workers are gone. */
static void last_look(void)
{
	static struct worker w;

	enter_cgroup(MEMCG "/work/cgroup.procs");
	slot = &control->slots[0];
	memset(slot->mappings, 0, sizeof(slot->mappings));
	set_up_process();
	set_up_worker(&w, 0);
	self = &w;
	for (unsigned int r = NR_OWN; r < NR_REGIONS; r++)
		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			struct span s = { &regions[r], b, 1 };

			/* one that its killed owner could not repair */
			lock_contents(&s);
			unlock_contents(&s);
		}
	check_regions(&w, NR_OWN, NR_REGIONS);
	_exit(KSFT_PASS);
}

/* The filler of a coherent device */

#define FILL_PAGES	((256UL << 20) / PAGE_SIZE + 256)
#define FILL_STEP	64UL
#define MARK_STEP	16

struct filler {
	uint32_t *area;
	uint32_t *buffer;
	uint64_t random;
	uint64_t marks;
	int fd;
};

static uint32_t *filler_page(const struct filler *f, size_t page)
{
	return f->area + page * PAGE_WORDS;
}

/* Return: how many of some pages are on the device now. */
static unsigned int fill_step(struct filler *f, size_t page)
{
	char *addr = (char *)filler_page(f, page);

	race_device(f->fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, FILL_STEP,
		    f->buffer);
	return count_in_device(f->fd, addr, FILL_STEP);
}

/* From holes; those that find no room stay holes. */
static size_t fill_device(struct filler *f)
{
	unsigned int misses = 0;
	size_t found = 0;

	for (size_t i = 0; i + FILL_STEP <= FILL_PAGES && misses < 8 &&
	     !control->over; i += FILL_STEP) {
		unsigned int got = fill_step(f, i);

		found += got;
		misses = got == FILL_STEP ? 0 : misses + 1;
	}
	return found;
}

static void mark_pages(struct filler *f, size_t pages)
{
	for (size_t i = 0; i < pages; i += MARK_STEP)
		filler_page(f, i)[PAGE_WORDS - 1] = race_mix(f->marks + i);
}

static void check_marks(struct filler *f, size_t pages)
{
	for (size_t i = 0; i < pages; i += MARK_STEP / 2) {
		uint32_t value = filler_page(f, i)[PAGE_WORDS - 1];
		uint32_t mark = i % MARK_STEP ? 0 : race_mix(f->marks + i);

		if (value != mark)
			complain(WORDS, "full device, page %zu: %#x, not %#x\n",
				 i, value, mark);
		control->words++;
	}
}

/* Some pages go, others take their place. */
static void replace_pages(struct filler *f, size_t pages)
{
	for (int i = 0; i < 16 && !control->over; i++) {
		size_t page = race_below(&f->random, FILL_PAGES - FILL_STEP);

		page -= page % FILL_STEP;
		if (page < pages)
			continue;
		madvise(filler_page(f, page), FILL_STEP * PAGE_SIZE,
			MADV_DONTNEED);
		race_pause_ms(20);
		fill_step(f, page);
	}
}

static void fill_once(struct filler *f)
{
	size_t size = FILL_PAGES * PAGE_SIZE, full;

	f->area = memory(size, PROT_READ | PROT_WRITE);
	madvise(f->area, size, MADV_NOHUGEPAGE);
	full = fill_device(f);
	if (full + FILL_PAGES / 16 > FILL_PAGES)
		control->filled++;
	mark_pages(f, FILL_STEP * 16);
	replace_pages(f, FILL_STEP * 16);
	check_marks(f, FILL_STEP * 16);
	munmap(f->area, size);
}

static void filler_process(void)
{
	struct filler f = {
		.random = race_mix(options.seed + 77),
		.marks = race_mix(options.seed + 78),
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(MEMCG "/fill/cgroup.procs");
	f.fd = race_open_device(2);
	f.buffer = memory(FILL_STEP * PAGE_SIZE, PROT_READ | PROT_WRITE);
	while (!control->over) {
		fill_once(&f);
		for (int i = 0; i < 40 && !control->over; i++)
			race_pause_ms(50);
	}
	_exit(KSFT_PASS);
}

/* The meddler */

struct meddler {
	uint64_t random;
	bool our_swap;
};

#define THP	"/sys/kernel/mm/transparent_hugepage/"
#define KSM	"/sys/kernel/mm/ksm/"
#define DEBUG	"/sys/kernel/debug/"

#define PICK(m, array)	(array)[race_below(&(m)->random, ARRAY_SIZE(array))]

static bool meddle_thp(struct meddler *m)
{
	static const char *const modes[] = { "always", "always", "madvise",
					     "never" };
	static const char *const defrag[] = { "always", "defer", "madvise" };
	static const char *const shmem[] = { "always", "within_size", "never",
					     "advise" };

	race_write_file(THP "enabled", PICK(m, modes));
	race_write_file(THP "defrag", PICK(m, defrag));
	return !race_write_file(THP "shmem_enabled", PICK(m, shmem));
}

static bool meddle_mthp(struct meddler *m)
{
	static const char *const modes[] = { "always", "inherit", "never" };
	static const unsigned int sizes[] = { 16, 32, 64, 256, 1024, 2048 };
	char path[96];

	snprintf(path, sizeof(path), THP "hugepages-%ukB/enabled",
		 PICK(m, sizes));
	return !race_write_file(path, PICK(m, modes));
}

static bool meddle_split(struct meddler *m)
{
	return !race_write_file(DEBUG "split_huge_pages", "1");
}

static bool meddle_ksm(struct meddler *m)
{
	static const char *const runs[] = { "1", "1", "1", "0", "2" };

	race_write_file(KSM "sleep_millisecs", "5");
	race_write_file(KSM "pages_to_scan", "1000");
	return !race_write_file(KSM "run", PICK(m, runs));
}

static bool meddle_compact(struct meddler *m)
{
	return !race_write_file("/proc/sys/vm/compact_memory", "1");
}

static bool meddle_caches(struct meddler *m)
{
	static const char *const kinds[] = { "1", "2", "3" };

	return !race_write_file("/proc/sys/vm/drop_caches", PICK(m, kinds));
}

static bool meddle_limit(struct meddler *m)
{
	static const char *const limits[] = { "max", "max", "64M", "40M",
					      "28M", "20M" };

	race_write_file(MEMCG "/work/memory.high", PICK(m, limits));
	return !race_write_file(MEMCG "/work/memory.max", PICK(m, limits));
}

static bool meddle_reclaim(struct meddler *m)
{
	return !race_write_file(MEMCG "/work/memory.reclaim", "4M");
}

/* All threads that have make-it-fail are hit, for a moment. */
static bool meddle_inject(struct meddler *m)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	static const char *const rates[] = { "1", "5", "20" };
	const char *kind = PICK(m, kinds);
	char path[96];

	if (!can_inject)
		return true;
	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	control->injections++;
	race_write_file(path, PICK(m, rates));
	race_pause_ms(20 + race_below(&m->random, 300));
	race_write_file(path, "0");
	/* what has failed is done with, or looks again */
	race_pause_ms(5);
	control->injections_over++;
	return true;
}

static bool meddle_swap(struct meddler *m)
{
	bool off;

	if (!m->our_swap)
		return true;
	off = !swapoff(RACE_SWAP_DEVICE);
	race_pause_ms(race_below(&m->random, 100));
	swapon(RACE_SWAP_DEVICE, 0);
	return off;
}

static bool meddle_unplug(struct meddler *m)
{
	unsigned int nr = race_below(&m->random, DEVICES);
	bool done;
	int fd;

	if (!own_driver || !have_device[nr])
		return true;
	fd = race_open_device(nr);
	if (fd < 0)
		return false;
	done = !race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1, NULL);
	close(fd);
	return done;
}

static const struct meddle {
	const char *name;
	bool (*run)(struct meddler *m);
	unsigned int weight;
} meddles[] = {
	{ "THP setting", meddle_thp, 4 },
	{ "mTHP setting", meddle_mthp, 4 },
	{ "split of huge pages", meddle_split, 1 },
	{ "KSM setting", meddle_ksm, 3 },
	{ "compaction", meddle_compact, 3 },
	{ "drop_caches", meddle_caches, 1 },
	{ "memcg limit", meddle_limit, 4 },
	{ "memcg reclaim", meddle_reclaim, 3 },
	{ "injection", meddle_inject, 4 },
	{ "swapoff", meddle_swap, 1 },
	{ "unplug", meddle_unplug, 2 },
};

static size_t pick_meddle(struct meddler *m)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(meddles); i++)
		sum += meddles[i].weight;
	at = race_below(&m->random, sum);
	for (i = 0; at >= meddles[i].weight; i++)
		at -= meddles[i].weight;
	return i;
}

static void meddle_once(struct meddler *m, size_t i)
{
	race_pause_ms(10 + race_below(&m->random, 150));
	if (!is_wanted(meddles[i].name))
		return;
	control->meant[i]++;
	control->meddled[i] += meddles[i].run(m);
}

/* A short run has all of them, too: each once, in any order. */
static void meddle_with_all(struct meddler *m)
{
	size_t order[ARRAY_SIZE(meddles)];

	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		size_t at = race_below(&m->random, i + 1);

		order[i] = order[at];
		order[at] = i;
	}
	for (size_t i = 0; i < ARRAY_SIZE(order) && !control->over; i++)
		meddle_once(m, order[i]);
}

static void meddler_process(bool our_swap)
{
	struct meddler m = {
		.random = race_mix(options.seed + 99),
		.our_swap = our_swap,
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	meddle_with_all(&m);
	while (!control->over)
		meddle_once(&m, pick_meddle(&m));
	_exit(KSFT_PASS);
}

/* Main */

/* In KiB, as /proc/meminfo has it. */
static const char *const usage_keys[] = {
	"MemFree", "Cached", "Buffers", "AnonPages", "Shmem", "Unevictable",
	"SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "Percpu",
	"VmallocUsed",
};

struct usage {
	long kib[ARRAY_SIZE(usage_keys)];
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

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

/* Between processes, and whose owner may be killed. */
static void set_up_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(lock, &attr);
}

static void set_up_blocks(struct block *blocks, uint8_t leaves)
{
	memset(blocks, 0, NR_BLOCKS * sizeof(*blocks));
	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		set_up_lock(&blocks[b].contents);
		blocks[b].record.leaves[0] = leaves;
	}
}

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

/* The new one's incarnation first: whoever still looks at the old one sees. */
static void start_worker(struct guard *g, unsigned int i)
{
	struct slot *s = &control->slots[i];
	pid_t pid;

	s->ready = false;
	s->incarnation++;
	memset(s->mappings, 0, sizeof(s->mappings));
	for (unsigned int r = 0; r < NR_OWN; r++)
		set_up_blocks(s->own[r], hole_leaves(&regions[r]));
	g->moved[i] = now();
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

/* Also the children of killed workers. */
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

/* One that only waits for a lock of somebody who is stopped gets on later. */
static void watch_progress(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++) {
		unsigned long progress = control->slots[i].progress;

		if (progress != g->progress[i]) {
			g->progress[i] = progress;
			g->moved[i] = now();
		}
		if (now() - g->moved[i] <= (time_t)options.patience)
			continue;
		complain(PROCESSES, "worker %u has not got on for %lu s\n", i,
			 options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
		race_write_file("/proc/sysrq-trigger", "l");
		g->moved[i] = now();
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

/* A run of so many seconds must have what is rare. */
#define LONG_RUN	100

static bool lacks_kills(void)
{
	return is_wanted("kill") && !control->kills;
}

static bool lacks_filling(void)
{
	return is_wanted("filler") && !control->filled;
}

/* On a slow machine that may take longer: ten times as long at most. */
static bool has_time(const struct guard *g)
{
	time_t seconds = options.seconds, passed = now() - g->start;

	if (options.all_needed && seconds >= LONG_RUN &&
	    (lacks_kills() || lacks_filling()))
		seconds *= 10;
	return passed < seconds;
}

static void guard_loop(struct guard *g)
{
	time_t said = g->start;

	while (has_time(g) && !control->complaints) {
		guard_tick(g);
		if (now() < said + 60)
			continue;
		said = now();
		note("%ld s, %lu words right\n", (long)(said - g->start),
		     control->words);
	}
	g->lasted = now() - g->start;
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
	for (unsigned long i = 0; i < options.patience * 50; i++) {
		if (!some_live(g))
			break;
		race_pause_ms(20);
	}
	if (some_live(g)) {
		complain(PROCESSES, "no end after %lu s\n", options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
	}
	race_write_file(MEMCG "/cgroup.kill", "1");
	for (int i = 0; i < 500 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
		race_pause_ms(20);
}

/* For a child that must end. Return: its status. */
static int wait_bounded(pid_t pid, const char *what)
{
	int status;

	for (unsigned long i = 0; i < options.patience * 50; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		race_pause_ms(20);
	}
	race_write_file("/proc/sysrq-trigger", "w");
	note("%s: no end after %lu s\n", what, options.patience);
	kill(pid, SIGKILL);
	return -1;
}

static void look_at_shared(void)
{
	pid_t pid = start_process("last look");

	if (!pid)
		last_look();
	if (wait_bounded(pid, "the last look"))
		complain(PROCESSES, "the last look fails\n");
}

/* Only when no page is in use any more does the driver come back from this. */
static void take_memory_away(unsigned int nr)
{
	pid_t pid = start_process("release");

	if (!pid) {
		int fd = race_open_device(nr);

		_exit(fd < 0 || race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1,
					    NULL));
	}
	if (wait_bounded(pid, "pages of a device are in use still"))
		complain(DEVICE_PAGES, "device %u keeps pages\n", nr);
}

static void release_devices(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (have_device[i])
			take_memory_away(i);
}

/* The cgroup */

static const char *set_up_cgroup(void)
{
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/cgroup.subtree_control", "+memory"))
		return "no memory controller";
	if ((mkdir(MEMCG "/work", 0755) && errno != EEXIST) ||
	    (mkdir(MEMCG "/fill", 0755) && errno != EEXIST))
		return "no cgroups of its own";
	return NULL;
}

/* What a file system keeps of its own, and slab that outlives processes. */
#define CHARGE_FILE	(64L << 10)
#define CHARGE_REST	(2L << 20)

static void check_stat(const char *group, const char *key, long most)
{
	char path[96];
	long value;

	snprintf(path, sizeof(path), MEMCG "%s/memory.stat", group);
	for (int tries = 0; tries < 600; tries++) {
		value = race_read_number(path, key);
		if (value <= most)
			return;
		race_pause_ms(100);
	}
	complain(CHARGES, "memory.stat of %s: %s is %ld\n", group, key, value);
}

static void set_group(const char *group, const char *file, const char *text)
{
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/%s", group, file);
	race_write_file(path, text);
}

/* Charges that the CPUs keep in stock are given up at a limit that is lower. */
static void check_group(const char *group)
{
	char path[96];
	long rest;

	set_group(group, "memory.reclaim", "64M");
	set_group(group, "memory.max", "1M");
	check_stat(group, "anon", 0);
	check_stat(group, "shmem", 0);
	check_stat(group, "file_mapped", 0);
	check_stat(group, "unevictable", 0);
	check_stat(group, "file", CHARGE_FILE);
	snprintf(path, sizeof(path), MEMCG "%s/memory.current", group);
	rest = race_read_number(path, NULL);
	note("%s: %ld bytes charged at the end\n", group, rest);
	if (rest < 0 || rest > CHARGE_REST)
		complain(CHARGES, "%ld bytes are still charged to %s\n", rest,
			 group);
	snprintf(path, sizeof(path), MEMCG "%s", group);
	if (rmdir(path))
		complain(CHARGES, "removal of %s: %s\n", path,
			 strerror(errno));
}

/* Memory and counters of the system */

/* Slabs without objects are given back, as are freed objects that KASAN keeps. */
static void shrink_slabs(void)
{
	glob_t found = {};

	glob("/sys/kernel/slab/*/shrink", 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc; i++)
		race_write_file(found.gl_pathv[i], "1");
	globfree(&found);
}

static struct usage usage_now(void)
{
	struct usage usage;

	for (int i = 0; i < 3; i++) {
		race_write_file("/proc/sys/vm/drop_caches", "3");
		shrink_slabs();
		race_pause_ms(100);
	}
	for (size_t i = 0; i < ARRAY_SIZE(usage_keys); i++)
		usage.kib[i] = race_read_number("/proc/meminfo", usage_keys[i]);
	return usage;
}

/* In KiB; slabs with holes, and page tables of the kernel. */
#define FREE_REST	(24L << 10)

static void check_free(const struct guard *g)
{
	struct usage usage = usage_now();
	long gone = g->before.kib[0] - usage.kib[0];

	note("free memory: %ld KiB before, %ld after\n", g->before.kib[0],
	     usage.kib[0]);
	if (gone <= FREE_REST)
		return;
	complain(COUNTERS, "%ld KiB of memory are gone\n", gone);
	for (size_t i = 1; i < ARRAY_SIZE(usage_keys); i++)
		note("%s: %ld KiB before, %ld after\n", usage_keys[i],
		     g->before.kib[i], usage.kib[i]);
}

/* Counters of each CPU are added up now and then. */
static bool settles_at(const char *key, long wanted)
{
	for (int i = 0; i < 50; i++) {
		race_write_file("/proc/sys/vm/stat_refresh", "1");
		if (race_read_number("/proc/vmstat", key) == wanted)
			return true;
		race_pause_ms(100);
	}
	return false;
}

static void check_counters(void)
{
	static const char *const zero[] = {
		"nr_isolated_anon", "nr_isolated_file", "nr_mlock",
	};
	const char *released = "nr_foll_pin_released";

	for (size_t i = 0; i < ARRAY_SIZE(zero); i++)
		if (!settles_at(zero[i], 0))
			complain(COUNTERS, "%s is %ld\n", zero[i],
				 race_read_number("/proc/vmstat", zero[i]));
	if (!settles_at(released, race_read_number("/proc/vmstat",
						   "nr_foll_pin_acquired")))
		complain(COUNTERS, "pins: %ld released of %ld\n",
			 race_read_number("/proc/vmstat", released),
			 race_read_number("/proc/vmstat",
					  "nr_foll_pin_acquired"));
}

/* Once it is off, the system has let go of all that was swapped out. */
static void check_swap(const struct guard *g)
{
	if (!g->our_swap)
		return;
	race_swap_end(true);
	if (race_swap_exists())
		complain(COUNTERS, "swap cannot be taken away: %s\n",
			 strerror(errno));
}

/* Setting up */

static void make_region(unsigned int nr)
{
	struct region *region = &regions[nr];

	region->nr = nr;
	region->fd = -1;
	region->blocks = control->shared[nr];
	region->slot = &control->slots[0];
	set_up_blocks(region->blocks, RACE_LEAVES_ZERO);
}

/* With a gap after each, and room for a huge page. */
static void reserve_addresses(void)
{
	size_t size = (NR_REGIONS + 1) * REGION_STRIDE;
	char *addr = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		ksft_exit_fail_msg("no address space\n");
	addr += -(uintptr_t)addr & (REGION_SIZE - 1);
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		make_region(i);
		regions[i].addr = addr + i * REGION_STRIDE;
	}
}

static int make_file(const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", options.directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, REGION_SIZE))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	unlink(path);
	return fd;
}

static void write_other(const struct region *region)
{
	static uint32_t words[BLOCK_WORDS];

	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		struct span s = { (struct region *)region, b, 1 };

		fill_other(words, &s);
		if (pwrite(region->fd, words, BLOCK_SIZE, b * BLOCK_SIZE) !=
		    (ssize_t)BLOCK_SIZE)
			ksft_exit_fail_msg("a file cannot be written\n");
	}
}

/* Whatever was written to the private mappings, the file is as it was. */
static void check_private_file(void)
{
	static uint32_t is[BLOCK_WORDS], was[BLOCK_WORDS];

	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		struct span s = { &regions[OWN_FILE], b, 1 };

		fill_other(was, &s);
		if (pread(regions[OWN_FILE].fd, is, BLOCK_SIZE,
			  b * BLOCK_SIZE) != (ssize_t)BLOCK_SIZE)
			complain(ERRORS, "a file cannot be read: %s\n",
				 strerror(errno));
		else if (memcmp(is, was, BLOCK_SIZE))
			complain(WORDS, "block %u of a file has changed by a private mapping\n",
				 b);
	}
}

static void make_regions(void)
{
	reserve_addresses();
	regions[OWN_FILE].fd = make_file("hmm-torture.private");
	write_other(&regions[OWN_FILE]);
	regions[SHARED_FILE].fd = make_file("hmm-torture.shared");
	regions[SHARED_SHMEM].fd = memfd_create("hmm-torture", MFD_CLOEXEC);
	if (regions[SHARED_SHMEM].fd < 0 ||
	    ftruncate(regions[SHARED_SHMEM].fd, REGION_SIZE))
		ksft_exit_fail_msg("no shmem: %s\n", strerror(errno));
	if (!map_memory(&regions[SHARED_ANON], regions[SHARED_ANON].addr,
			REGION_SIZE, MAP_FIXED))
		ksft_exit_fail_msg("no shared memory\n");
}

static void drop_regions(void)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		if (regions[i].fd >= 0)
			close(regions[i].fd);
	munmap(regions[0].addr, NR_REGIONS * REGION_STRIDE);
	/* and with it the pins of who was killed */
	if (gup_fd >= 0)
		close(gup_fd);
}

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
	close(fd);
}

/* Only threads that say so, also those that could wait for memory. */
static void set_up_injection(void)
{
	static const char *const settings[][2] = {
		{ "verbose", "0" }, { "task-filter", "Y" }, { "times", "-1" },
		{ "probability", "0" }, { "ignore-gfp-wait", "N" },
		{ "ignore-gfp-highmem", "N" }, { "min-order", "0" },
	};
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	char path[96];

	can_inject = is_wanted("injection") &&
		     !access("/proc/self/fail-nth", W_OK) &&
		     !access(DEBUG "failslab/probability", W_OK);
	for (size_t k = 0; can_inject && k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
			snprintf(path, sizeof(path), DEBUG "%s/%s", kinds[k],
				 settings[i][0]);
			race_write_file(path, settings[i][1]);
		}
}

static void end_injection(void)
{
	if (!can_inject)
		return;
	race_write_file(DEBUG "failslab/probability", "0");
	race_write_file(DEBUG "fail_page_alloc/probability", "0");
}

static void hurry_khugepaged(void)
{
	race_write_file(THP "khugepaged/scan_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/alloc_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/pages_to_scan", "4096");
}

/* Results */

/* A long list in lines. */
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

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (ops[i].off)
			continue;
		report_op(line, sizeof(line), i);
		if (!control->done[i] && control->tried[i] >= 100 &&
		    is_due(&ops[i]))
			complain(EFFECT, "not once of %lu times: %s\n",
				 control->tried[i], ops[i].name);
	}
	if (*line)
		note("%s\n", line);
}

static void report_meddles(void)
{
	char line[400] = "";

	for (size_t i = 0; i < ARRAY_SIZE(meddles); i++) {
		snprintf(line + strlen(line), sizeof(line) - strlen(line),
			 "%s %lu/%lu, ", meddles[i].name, control->meddled[i],
			 control->meant[i]);
		if (!control->meddled[i] && control->meant[i] >= 20)
			complain(EFFECT, "not once of %lu times: %s\n",
				 control->meant[i], meddles[i].name);
	}
	note("%s\n", line);
}

static void report_lack(const char *what, bool lacking)
{
	if (options.all_needed && lacking)
		complain(EFFECT, "nothing was done by %s\n", what);
}

static void report_needs(const struct guard *g)
{
	bool lasted = g->lasted >= LONG_RUN;

	note("direct I/O: %d, gup_test: %d, userfaultfd: %d, injection: %d\n",
	     control->has[DIRECT_IO], control->has[GUP_TEST],
	     control->has[USERFAULTFD], can_inject);
	report_lack("direct I/O", !control->has[DIRECT_IO]);
	report_lack("gup_test", !control->has[GUP_TEST]);
	report_lack("userfaultfd", !control->has[USERFAULTFD]);
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
	     (long)(now() - g->start), control->words, control->unjudged,
	     control->excused);
}

static void check_what_is_left(struct guard *g)
{
	race_write_file(KSM "run", "2");
	check_private_file();
	drop_regions();
	release_devices();
	/* pages in batches of the CPUs count, and this empties them */
	race_write_file("/proc/sys/vm/drop_caches", "3");
	check_group("/work");
	check_group("/fill");
	rmdir(MEMCG);
	check_swap(g);
	check_counters();
	check_free(g);
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
	g->start = now();
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

#define USAGE	"usage: %s [-s seed] [-t seconds] [-p processes] [-j threads] " \
		"[-w seconds of patience] [-d directory for files] "		\
		"[-o only,these] [-x without,these] [-r: all is required]\n"

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
	if (sysconf(_SC_PAGESIZE) != (long)PAGE_SIZE)
		ksft_exit_skip("pages of 4 KiB are needed\n");
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
