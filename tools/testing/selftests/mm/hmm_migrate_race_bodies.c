// SPDX-License-Identifier: GPL-2.0-only
/* Scenarios that do not consist of roles alone. */
#include <signal.h>

#include "hmm_migrate_race_bodies.h"
#include "hmm_migrate_race_roles.h"

/* Many threads fault on the same pages */

#define FAULTERS	8

static struct faulting {
	pthread_barrier_t barrier;
	_Atomic unsigned long additions;	/* to each page */
	_Atomic bool freely;			/* no longer in step */
	_Atomic bool over;
} faulting;

/* Every second thread begins at the other end. */
static void add_to_pages(unsigned int thread)
{
	unsigned int nr = MOST_BLOCKS * BLOCK_PAGES;

	for (unsigned int i = 0; i < nr; i++) {
		unsigned int page = thread & 1 ? nr - 1 - i : i;
		_Atomic uint64_t *word = (_Atomic uint64_t *)(banks[1] +
							page * page_size);

		(*word)++;
	}
	faulting.additions++;
}

/* First in step, so that all threads find all pages on the device. */
static void *faulter(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&faulting.barrier);
		if (faulting.freely)
			break;
		add_to_pages((uintptr_t)arg);
		pthread_barrier_wait(&faulting.barrier);
	}
	while (!faulting.over)
		add_to_pages((uintptr_t)arg);
	return NULL;
}

static void check_sums(const char *when)
{
	for (unsigned int i = 0; i < MOST_BLOCKS * BLOCK_PAGES; i++) {
		uint64_t word = *(uint64_t *)(banks[1] + i * page_size);

		if (word != faulting.additions)
			complain("page %u: %llu of %lu additions, %s\n", i,
				 (unsigned long long)word, faulting.additions,
				 when);
	}
}

static unsigned long move_all(unsigned long direction, struct worker *w)
{
	unsigned int nr = MOST_BLOCKS * BLOCK_PAGES;

	race_device(near_fd, direction, banks[1], nr, w->buffer);
	control->progress++;
	return near_pages(near_fd, banks[1], nr).pages;
}

/* At least as many rounds as iterations, and until pages were on the device. */
static bool needs_round(unsigned long round, unsigned long on_device)
{
	return round < iterations || (!on_device && has_time());
}

static unsigned long fault_in_step(struct worker *w)
{
	unsigned long on_device = 0;

	for (unsigned long i = 0; needs_round(i, on_device); i++) {
		on_device += move_all(HMM_DMIRROR_MIGRATE_TO_DEV, w);
		pthread_barrier_wait(&faulting.barrier);
		pthread_barrier_wait(&faulting.barrier);
		check_sums("in step");
	}
	return on_device;
}

static unsigned long fault_freely(struct worker *w)
{
	unsigned long on_device = 0;

	faulting.freely = true;
	pthread_barrier_wait(&faulting.barrier);
	for (unsigned long i = 0; needs_round(i, on_device); i++) {
		on_device += move_all(HMM_DMIRROR_MIGRATE_TO_DEV, w);
		if (!race_below(&w->random, 4))
			move_all(HMM_DMIRROR_MIGRATE_TO_SYS, w);
	}
	faulting.over = true;
	return on_device;
}

void fault_together(void)
{
	pthread_t threads[FAULTERS];
	unsigned long step, freely;
	struct worker w = {};

	set_up_worker(&w, NULL, 0);
	started = race_now();
	memset(banks[1], 0, MOST_BLOCKS * block_size);
	pthread_barrier_init(&faulting.barrier, NULL, FAULTERS + 1);
	for (uintptr_t i = 0; i < FAULTERS; i++)
		must_have(!pthread_create(&threads[i], NULL, faulter,
					  (void *)i), "thread");
	step = fault_in_step(&w);
	freely = fault_freely(&w);
	for (unsigned int i = 0; i < FAULTERS; i++)
		pthread_join(threads[i], NULL);
	check_sums("at the end");
	note("%lu pages on the device in step, then %lu; %lu additions to each\n",
	     step, freely, faulting.additions);
	if (!step || !freely)
		complain("no page was on the device in any round\n");
	tear_down_worker(&w);
}

/* The device gets full */

/* The dummy driver adds as much at once. */
#define CHUNK_SIZE	(256UL << 20)
#define FILLERS		4
#define EXCESS		64

static struct filling {
	char *area;
	size_t pages;
	size_t each;
} filling;

static char *filled_page(size_t page)
{
	return filling.area + page * page_size;
}

/* Calls @op for the parts of some pages, one after the other. */
static size_t for_parts(size_t first, size_t end, void *buffer,
			size_t (*op)(char *addr, size_t nr, void *buffer))
{
	size_t step = MOST_BLOCKS * BLOCK_PAGES, sum = 0;

	for (; first < end; first += step) {
		sum += op(filled_page(first),
			  end - first < step ? end - first : step, buffer);
		control->progress++;
	}
	return sum;
}

static size_t fill_part(char *addr, size_t nr, void *buffer)
{
	return race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr,
			   buffer);
}

static size_t empty_part(char *addr, size_t nr, void *buffer)
{
	return race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_SYS, addr, nr,
			   buffer);
}

/* For pages that did not move because of a temporary reference. */
static size_t top_up_part(char *addr, size_t nr, void *buffer)
{
	size_t found = near_pages(near_fd, addr, nr).pages;

	if (found == nr)
		return found;
	fill_part(addr, nr, buffer);
	return near_pages(near_fd, addr, nr).pages;
}

/* Return: pages on the device, from page @first on. */
static size_t top_up(size_t first, size_t wanted, void *buffer)
{
	size_t found = 0;

	race_wait_for((found = for_parts(first, filling.pages, buffer,
					 top_up_part)) >= wanted, limit / 2);
	return found;
}

static void *filler(void *arg)
{
	size_t first = (uintptr_t)arg * filling.each;
	size_t end = first + filling.each;
	void *buffer = memory(MOST_BLOCKS * block_size);

	for_parts(first, end < filling.pages ? end : filling.pages, buffer,
		  fill_part);
	munmap(buffer, MOST_BLOCKS * block_size);
	return NULL;
}

/*
 * One page in sixteen has contents. The others are holes, which become zeroes
 * on the device. Two words are enough to tell a page from all others.
 */
#define MARK_STEP	16

static void mark_pages(void)
{
	size_t last = page_size / sizeof(uint64_t) - 1;

	for (size_t i = 0; i < filling.pages; i += MARK_STEP) {
		uint64_t *words = (uint64_t *)filled_page(i);

		words[0] = race_mix(seed + i);
		words[last] = ~words[0];
	}
}

static void check_marks(size_t missing)
{
	size_t last = page_size / sizeof(uint64_t) - 1;

	for (size_t i = 0; i < filling.pages; i += MARK_STEP / 2) {
		uint64_t *words = (uint64_t *)filled_page(i);
		bool zero = i % MARK_STEP || i == missing;
		uint64_t mark = zero ? 0 : race_mix(seed + i);

		if (words[0] != mark || words[last] != (zero ? 0 : ~mark))
			complain("page %zu is not what it was: %#llx\n", i,
				 (unsigned long long)words[0]);
	}
}

/* A full device can reuse a page that was freed. */
static void replace_one(size_t full, void *buffer)
{
	size_t again;

	must(!madvise(filling.area, page_size, MADV_DONTNEED),
	     "MADV_DONTNEED");
	/* a system page, since a hole would be filled on the device */
	memset(filling.area, 0, page_size);
	again = top_up(1, full, buffer);
	if (again != full)
		complain("%zu pages on the device after one was freed and taken, not %zu\n",
			 again, full);
}

static void fill_by_threads(void)
{
	pthread_t threads[FILLERS];

	for (uintptr_t i = 0; i < FILLERS; i++)
		must_have(!pthread_create(&threads[i], NULL, filler,
					  (void *)i), "thread");
	for (unsigned int i = 0; i < FILLERS; i++)
		pthread_join(threads[i], NULL);
}

/*
 * The driver adds private memory in chunks, so this fills more than one chunk.
 * There is one chunk of coherent memory.
 */
void fill_up(void)
{
	size_t chunk = CHUNK_SIZE / page_size, full, found, size;
	void *buffer = memory(MOST_BLOCKS * block_size);

	filling.pages = chunk + EXCESS;
	filling.each = filling.pages / FILLERS + 1;
	size = filling.pages * page_size;
	filling.area = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (filling.area == MAP_FAILED)
		skip_all("not enough memory to fill a device");
	/* a mark must not fault in a huge page */
	madvise(filling.area, size, MADV_NOHUGEPAGE);
	full = coherent ? chunk : filling.pages;
	mark_pages();
	fill_by_threads();
	found = top_up(0, full, buffer);
	note("%zu of %zu pages on the device\n", found, filling.pages);
	if (found != full)
		complain("%zu pages on the device, not %zu\n", found, full);
	if (coherent)
		replace_one(full, buffer);
	/* some by a call, the others by faults, or in place */
	for_parts(0, filling.pages / 8, buffer, empty_part);
	check_marks(coherent ? 0 : SIZE_MAX);
	munmap(filling.area, size);
	munmap(buffer, MOST_BLOCKS * block_size);
}

/* Processes are killed at any time */

static void be_killed(void)
{
	static struct worker workers[MAX_WORKERS];

	open_devices();
	set_up_area();
	leaders = UINT_MAX / 2;	/* none is the last to have work */
	start_roles(workers);
	for (;;)
		pause();
}

void kill_children(void)
{
	unsigned long kills = iterations / 5 + 1;
	uint64_t random = seed;

	for (unsigned long i = 0; i < kills; i++) {
		unsigned long until;
		int status = 0;
		pid_t pid;

		until = control->progress + race_below(&random, 60);
		pid = fork();
		if (!pid)
			be_killed();
		must_have(pid > 0, "fork");
		while (control->progress < until &&
		       !waitpid(pid, &status, WNOHANG))
			race_pause_ms(1);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			complain("a child ends by itself, status %#x\n",
				 status);
	}
	note("%lu processes killed\n", kills);
}
