// SPDX-License-Identifier: GPL-2.0-only
/* Mirroring: the device reads and writes the memory of the process. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_FIXTURE(mirroring)

TEST_FILLED(mirroring, device_reads_what_the_cpu_wrote)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, device->pages);
	EXPECT_NE(0, device->faults);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(mirroring, cpu_reads_what_the_device_wrote)
{
	area_fill_part(area, 0, SOME / 2, 1);
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(SOME, device->pages);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(mirroring, cpu_and_device_take_turns)
{
	unsigned int turn;

	for (turn = 1; turn < 20; turn += 2) {
		area_fill(area, turn);
		ASSERT_EQ(0, device_wrong(device, area, turn));
		ASSERT_EQ(0, device_fill(device, area, turn + 1));
		ASSERT_EQ(0, cpu_wrong(area, turn + 1));
	}
}

TEST_MIRROR(mirroring, untouched_memory_reads_as_zeroes)
{
	EXPECT_EQ(0, device_wrong(device, area, 0));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_FILLED(mirroring, mapped_memory_needs_no_second_fault)
{
	EXPECT_TRUE(eventually(!device_wrong(device, area, 1) &&
			       !device->faults));
}

/* With no entry for the area in the page table of the device. */
static bool one_fault(struct mirror *m, const struct area *area,
		      unsigned long request)
{
	area_advise(area, MADV_DONTNEED);
	return !mirror_call(m, request, area->at, area->pages, area->buffer) &&
	       m->pages == area->pages && m->faults == 1;
}

TEST_MIRROR(mirroring, long_command_counts_one_fault)
{
	struct area range;

	if (!memory_for(6 * LONG))
		SKIP(return, "too little memory for pages of this size");
	ASSERT_EQ(0, area_map(&range, LONG));
	EXPECT_TRUE(eventually(one_fault(device, &range, HMM_DMIRROR_READ)));
	EXPECT_TRUE(eventually(one_fault(device, &range, HMM_DMIRROR_WRITE)));
}

TEST_MIRROR(mirroring, snapshot_faults_nothing_in)
{
	unsigned char places[SOME];
	size_t i;

	memset(places, 0xaa, SOME);
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_SNAPSHOT, area->at, SOME,
				 places));
	EXPECT_EQ(SOME, device->pages);
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(HMM_DMIRROR_PROT_NONE, places[i]);
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT));
}

TEST_MIRROR(mirroring, snapshot_shows_the_zero_page)
{
	area_advise(area, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, device_wrong(device, area, 0));
	EXPECT_EQ(HMM_DMIRROR_PROT_ZERO | HMM_DMIRROR_PROT_READ,
		  mirror_place(device, area->at));

	ASSERT_EQ(0, device_fill_part(device, area, 0, 1, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, mirror_place(device, area->at));
	EXPECT_EQ(0, cpu_wrong_but(area, 0, 0, 1, 1));
}

TEST_MIRROR(mirroring, snapshot_shows_a_thp)
{
	struct area thp;
	size_t i;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_SNAPSHOT, thp.at,
				 THP_PAGES, thp.buffer));
	for (i = 0; i < THP_PAGES; i++)
		ASSERT_EQ(HMM_DMIRROR_PROT_WRITE | HMM_DMIRROR_PROT_PMD,
			  thp.buffer[i]);
	EXPECT_EQ(0, device_wrong(device, &thp, 1));
	ASSERT_EQ(0, device_fill_part(device, &thp, 100, SOME, 2));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 100, SOME, 2));
}

TEST_MIRROR(mirroring, huge_zero_page_is_never_written)
{
	struct area thp, twin;

	SKIP_FOR(map_thp_zeroes(&thp) ?: map_thp_zeroes(&twin));
	EXPECT_EQ(0, HMM_DMIRROR_PROT_WRITE & mirror_place(device, thp.at));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	ASSERT_EQ(0, device_fill_part(device, &thp, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 0, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong(&twin, 0));
}

TEST_FILLED(mirroring, unmapped_memory_is_out_of_reach)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, munmap(area_page(area, 10), 20 * PAGE));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, 10, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, 29, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(device, area, 10, 1, 2));
	EXPECT_EQ(HMM_DMIRROR_PROT_ERROR,
		  mirror_place(device, area_page(area, 10)));
	EXPECT_EQ(0, device_wrong_part(device, area, 0, 10, 1));
	EXPECT_EQ(0, device_wrong_part(device, area, 30, SOME - 30, 1));
}

TEST_FILLED(mirroring, new_mapping_shows_nothing_of_the_old)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_NE(MAP_FAILED,
		  mmap(area_page(area, 1), PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(0, device_wrong_but(device, area, 1, 1, 1, 0));
}

TEST_FILLED(mirroring, discarded_memory_reads_as_zeroes)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	EXPECT_EQ(0, device_wrong(device, area, 0));
}

/*
 * More pages than the driver invalidates at a time, from the start of one of
 * its tables. An error would leave the pages at the end.
 */
#define MUCH	4224
#define BEHIND	4096

TEST_MIRROR(mirroring, device_forgets_all_of_a_large_range)
{
	const size_t align = 4 * BEHIND * PAGE;
	struct area all, much = { .pages = MUCH };
	size_t skip, i, reached;

	ASSERT_EQ(0, area_map(&all, 6 * BEHIND));
	much.buffer = all.buffer;
	for (skip = 0; skip < 128; skip += 64) {
		much.at = (void *)(((uintptr_t)all.at + align) & ~(align - 1));
		much.at += skip * PAGE;
		ASSERT_EQ(0, area_protect(&much, PROT_READ));
		ASSERT_EQ(0, device_wrong(device, &much, 0));
		ASSERT_EQ(0, area_protect(&much, PROT_NONE));
		for (i = BEHIND - 64, reached = 0; i < MUCH; i++)
			reached += device_wrong_part(device, &much, i, 1, 0) !=
				   -EFAULT;
		EXPECT_EQ(0, reached);
	}
}

TEST_MIRROR(mirroring, moved_mapping_is_found_at_its_new_place)
{
	struct area to;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, area_move(area, &to));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(0, device_wrong(device, &to, 1));
	ASSERT_EQ(0, device_fill(device, &to, 2));
	EXPECT_EQ(0, cpu_wrong(&to, 2));
}

TEST_MIRROR(mirroring, access_spans_mappings)
{
	ASSERT_EQ(0, area_advise_part(area, 5, 20, MADV_DONTFORK));
	ASSERT_EQ(0, area_advise_part(area, 30, 1, MADV_DONTDUMP));
	area_fill(area, 1);
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_FILLED(mirroring, access_beyond_the_mapping_fails)
{
	unsigned char buffer[2 * PAGE];

	EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ,
				       area_page(area, SOME - 1), 2, buffer));
	EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ,
				       area->at - PAGE, 2, buffer));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_MIRROR(mirroring, device_reads_data_stack_heap_and_text)
{
	static uint64_t data[3 * MAX_PAGE / sizeof(uint64_t)];
	uint64_t stack[3 * MAX_PAGE / sizeof(uint64_t)];
	uint64_t *heap = calloc(3, PAGE), *all[3];
	void *text = (void *)((uintptr_t)mirror_call & ~(PAGE - 1));
	size_t i;

	all[0] = data, all[1] = stack, all[2] = heap;
	for (i = 0; i < 3; i++) {
		uint64_t *in =
			(void *)(((uintptr_t)all[i] + PAGE) & ~(PAGE - 1));

		contents_fill(in, 0, 1, i + 1);
		ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_READ, in, 1,
					 area->buffer));
		EXPECT_EQ(0, contents_wrong(area->buffer, 0, 1, i + 1));
		EXPECT_EQ(0, contents_wrong(in, 0, 1, i + 1));
	}
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_READ, text, 1,
				 area->buffer));
	EXPECT_EQ(0, memcmp(area->buffer, text, PAGE));
	free(heap);
}

/* The data page of the vDSO is in a VM_PFNMAP mapping. */
static void *find_pfn_map(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	unsigned long start = 0;
	char line[512];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, "[vvar]") &&
			sscanf(line, "%lx", &start) == 1;
	if (file)
		fclose(file);
	return found ? (void *)start : NULL;
}

TEST_MIRROR(mirroring, pfn_mapping_is_refused)
{
	void *at = find_pfn_map();

	if (!at)
		SKIP(return, "no [vvar] in /proc/self/maps");
	EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, mirror_place(device, at));
	EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ, at, 1,
				       area->buffer));
	EXPECT_NE(0, mirror_call(device, HMM_DMIRROR_MIGRATE_TO_DEV, at, 1,
				 area->buffer));
}

TEST_MIRROR(mirroring, poisoned_page_is_refused)
{
	unsigned char *at = area_page(area, 3);
	char pfn[24];
	int error;

	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	snprintf(pfn, sizeof(pfn), "%llu",
		 (unsigned long long)(pagemap_entry(at) & PAGEMAP_PFN));
	error = poison_page(at);
	if (error == EPERM || error == EINVAL)
		SKIP(return, "no MADV_HWPOISON: %s", strerror(error));
	ASSERT_EQ(0, error);
	EXPECT_EQ(SIGBUS, cpu_try(at, CPU_READ));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, 3, 1, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(device, area, 3, 1, 2));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, held_part(device, area, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 4, SOME - 4, 1));
	munmap(at, PAGE);
	race_write_file("/sys/kernel/debug/hwpoison/unpoison-pfn", pfn);
}
