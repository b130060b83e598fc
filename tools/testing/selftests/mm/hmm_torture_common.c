// SPDX-License-Identifier: GPL-2.0-only
/* State of the torture and functions for all its parts. */
#include "hmm_torture_common.h"

size_t page_size, page_words;
unsigned int block_pages;
size_t block_size, block_words;
size_t region_size;

const char *const region_names[NR_REGIONS] = {
	[OWN_HUGE] = "own, huge pages",
	[OWN_SMALL] = "own, base pages",
	[OWN_FILE] = "own, file",
	[SHARED_ANON] = "shared, anonymous",
	[SHARED_SHMEM] = "shared, shmem",
	[SHARED_FILE] = "shared, file",
};

struct control *control;

struct options options = {
	.seconds = 60,
	.patience = 300,
	.slots = 4,
	.threads = 5,
	.directory = "/tmp",
};

bool own_driver, large_folios, have_device[DEVICES], can_inject;

struct slot *slot;
struct region regions[NR_REGIONS];
int devices[DEVICES] = { -1, -1, -1, -1 };
int uffd = -1, pagemap = -1, gup_fd = -1;
__thread struct worker *self;

void must_have(bool ok, const char *what)
{
	if (ok)
		return;
	complain(PROCESSES, "%s: %s\n", what, strerror(errno));
	_exit(KSFT_FAIL);
}

void *memory(size_t size, int prot)
{
	void *addr = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must_have(addr != MAP_FAILED, "memory");
	return addr;
}

void enter_cgroup(const char *procs)
{
	must_have(!race_write_file(procs, "0"), "move to the cgroup");
}

uint32_t below(struct worker *w, uint32_t limit)
{
	return race_below(&w->random, limit);
}

bool one_in(struct worker *w, uint32_t nr)
{
	return !below(w, nr);
}

/* Let the n-th allocation of this thread fail. */
void inject(struct worker *w, unsigned int nth)
{
	char text[12];
	int length = snprintf(text, sizeof(text), "%u", nth);

	if (w->fail_nth < 0 || pwrite(w->fail_nth, text, length, 0) != length)
		return;
	w->injected = nth;
}

void inject_no_more(struct worker *w)
{
	if (w->injected)
		inject(w, 0);
}
