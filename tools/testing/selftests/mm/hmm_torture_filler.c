// SPDX-License-Identifier: GPL-2.0-only
/* The filler takes all memory of a coherent device, again and again. */
#include "hmm_torture_filler.h"

/* The size of a coherent device, and some more */
#define FILL_PAGES	((256UL << 20) / page_size + 256)
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
	return f->area + page * page_words;
}

/* Return: how many pages of the step are on the device now. */
static unsigned int fill_step(struct filler *f, size_t page)
{
	char *addr = (char *)filler_page(f, page);
	unsigned char seen[FILL_STEP];

	race_device(f->fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, FILL_STEP,
		    f->buffer);
	return race_local_pages(f->fd, addr, FILL_STEP, seen).pages;
}

/* Holes become device pages, as long as there is room. */
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
		filler_page(f, i)[page_words - 1] = race_mix(f->marks + i);
}

static void check_marks(struct filler *f, size_t pages)
{
	for (size_t i = 0; i < pages; i += MARK_STEP / 2) {
		uint32_t value = filler_page(f, i)[page_words - 1];
		uint32_t mark = i % MARK_STEP ? 0 : race_mix(f->marks + i);

		if (value != mark)
			complain(WORDS, "full device, page %zu: %#x, not %#x\n",
				 i, value, mark);
		control->words++;
	}
}

/* Free some pages, and take as many again. */
static void replace_pages(struct filler *f, size_t pages)
{
	for (int i = 0; i < 16 && !control->over; i++) {
		size_t page = race_below(&f->random, FILL_PAGES - FILL_STEP);

		page -= page % FILL_STEP;
		if (page < pages)
			continue;
		madvise(filler_page(f, page), FILL_STEP * page_size,
			MADV_DONTNEED);
		race_pause_ms(20);
		fill_step(f, page);
	}
}

/*
 * Leave free pages on the full device of which no two are adjacent, so that
 * large folios move to single pages.
 */
#define SCATTERED	8192UL

static void scatter_free(struct filler *f, size_t page)
{
	for (size_t i = 0; i < SCATTERED && page + i < FILL_PAGES &&
	     !control->over; i += 2)
		madvise(filler_page(f, page + i), page_size, MADV_DONTNEED);
	race_pause_ms(300);
}

static void fill_once(struct filler *f)
{
	size_t size = FILL_PAGES * page_size, full;

	f->area = memory(size, PROT_READ | PROT_WRITE);
	madvise(f->area, size, MADV_NOHUGEPAGE);
	full = fill_device(f);
	if (full + FILL_PAGES / 16 > FILL_PAGES)
		control->filled++;
	mark_pages(f, FILL_STEP * 16);
	replace_pages(f, FILL_STEP * 16);
	scatter_free(f, FILL_STEP * 16);
	check_marks(f, FILL_STEP * 16);
	munmap(f->area, size);
}

void filler_process(void)
{
	struct filler f = {
		.random = race_mix(options.seed + 77),
		.marks = race_mix(options.seed + 78),
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(MEMCG "/fill/cgroup.procs");
	f.fd = race_open_device(2);
	f.buffer = memory(FILL_STEP * page_size, PROT_READ | PROT_WRITE);
	while (!control->over) {
		fill_once(&f);
		for (int i = 0; i < 40 && !control->over; i++)
			race_pause_ms(50);
	}
	_exit(KSFT_PASS);
}
