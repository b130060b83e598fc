// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations that move large folios of all orders to devices. The others move
 * spans that are smaller than a huge page, which split it.
 */
#include <linux/userfaultfd.h>

#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

struct span huge_span(void)
{
	return (struct span) { &regions[OWN_HUGE], 0, NR_BLOCKS };
}

/*
 * Without a buffer, the command fails after the migration. All of a region would
 * make each thread's buffer as large, and there is a limit of memory.
 */
void migrate_unread(int fd, const struct span *s)
{
	race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, span_address(s),
		    s->nr * block_pages, NULL);
}

static void bring_back(const struct span *s)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (devices[i] >= 0)
			race_device(devices[i], HMM_DMIRROR_MIGRATE_TO_SYS,
				    span_address(s), s->nr * block_pages, NULL);
}

static void touch_block(struct worker *w, struct span s)
{
	lock_contents(&s);
	cpu_fill(w, &s);
	unlock_contents(&s);
}

/*
 * Advice for a part has split the VMA. That of set_apart() is left alone, as
 * op_move() needs it.
 */
static void join_vmas(const struct span *s)
{
	struct uffdio_range range = {
		.start = (uintptr_t)span_address(s),
		.len = span_size(s),
	};

	if (uffd >= 0)
		ioctl(uffd, UFFDIO_UNREGISTER, &range);
	madvise(span_address(s), span_size(s), MADV_UNMERGEABLE);
	madvise(span_address(s), span_size(s), MADV_HUGEPAGE);
}

static bool collapse(const struct span *s)
{
	return !madvise(span_address(s), span_size(s), MADV_COLLAPSE);
}

/*
 * Make the region one huge page of system memory. If something is in the way, it
 * may go with the contents.
 */
bool make_huge(struct worker *w)
{
	struct span all = huge_span();

	touch_block(w, span_block(&all, below(w, NR_BLOCKS)));
	join_vmas(&all);
	bring_back(&all);
	if (collapse(&all))
		return true;
	if (one_in(w, 2) || !op_renew(w))
		return false;
	touch_block(w, span_block(&all, below(w, NR_BLOCKS)));
	return collapse(&all);
}

static bool is_huge_there(int fd, const struct span *s)
{
	unsigned char seen;

	return race_local_pages(fd, span_address(s), 1, &seen).pages &&
	       seen & HMM_DMIRROR_PROT_PMD;
}

/* A huge page or a hole of its size. It may be split on the way, or later. */
bool op_huge_to_device(struct worker *w)
{
	struct span all = huge_span(), s = pick_span(w);
	int fd = near_device(w);
	bool huge;

	if (one_in(w, 8))
		op_renew(w);
	else
		make_huge(w);
	vary_allocation(w, fd);
	migrate_unread(fd, &all);
	huge = is_huge_there(fd, &all);
	s.region = all.region;
	migrate_checked(w, fd, &s);
	return huge;
}

static void discard_some(struct worker *w, const struct span *all)
{
	for (unsigned int i = 0; i < all->nr; i++) {
		struct span s = span_block(all, i);

		if (!one_in(w, 8))
			continue;
		lock_contents(&s);
		discard_block(w, &s);
		unlock_contents(&s);
	}
}

/* Fill holes with folios of mixed orders, and discard parts of these. */
bool op_orders_to_device(struct worker *w)
{
	struct span all = huge_span(), s = { .region = all.region };
	unsigned char seen[MAX_BLOCK_PAGES];
	int fd = near_device(w);
	bool moved;

	if (one_in(w, 2))
		op_renew(w);
	for (; s.first < NR_BLOCKS; s.first += s.nr) {
		s.nr = 1U << below(w, 6);
		if (s.nr > NR_BLOCKS - s.first)
			s.nr = NR_BLOCKS - s.first;
		race_device(fd, HMM_DMIRROR_FLAGS, NULL, pick_hole_order(w),
			    NULL);
		migrate_unread(fd, &s);
	}
	moved = race_local_pages(fd, span_address(&all), block_pages,
				 seen).pages;
	discard_some(w, &all);
	return moved;
}
