// SPDX-License-Identifier: GPL-2.0-only
/* The processes that do operations on tortured memory, and the final check. */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"
#include "hmm_torture_worker.h"

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
	/* one page more, for migrations that extend into the gap */
	w->buffer = memory(region_size + page_size, PROT_READ | PROT_WRITE);
	w->spare = memory(3 * page_size + block_size, PROT_NONE);
	must_have(!pipe(w->pipe), "pipe");
	must_have(fcntl(w->pipe[1], F_SETPIPE_SZ, block_size) >= 0,
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
		must_have(map_memory(region, region->addr, region_size,
				     MAP_FIXED), "region");
}

/* The cgroup may be at its limit when a killed process is replaced. */
static int open_device_surely(unsigned int nr)
{
	int fd;

	race_wait_for((fd = race_open_device(nr)) >= 0, options.patience);
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
	control->has[LARGE_FOLIOS] = large_folios;
	catch_faults();
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		set_up_region(&regions[i]);
}

/* When nothing moves any more. */
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

void worker_process(void)
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

/* Check the shared regions when all workers are gone. */
void last_look(void)
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

			/* repairs what a killed owner of the lock left */
			lock_contents(&s);
			unlock_contents(&s);
		}
	check_regions(&w, NR_OWN, NR_REGIONS);
	_exit(KSFT_PASS);
}
