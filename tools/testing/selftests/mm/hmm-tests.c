// SPDX-License-Identifier: GPL-2.0-only
/*
 * What heterogeneous memory management promises to a process, one test a
 * promise, by way of the dummy device (lib/test_hmm.c).
 *
 * The fixtures are the kinds of promises, each for device-private and for
 * device-coherent memory. A test that needs pages in the device asks the kernel
 * for their place before it goes on, so that none passes because nothing moved.
 * What "the device" of a fixture cannot show alone has a second device of the
 * same kind, "other".
 *
 * Whatever the system lacks (a device, huge pages, swap, ...) skips a test with
 * the reason. Tests need root, leave the system as they found it, and do not
 * depend on how fast it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <mm/gup_test.h>
#include "../kselftest_harness.h"
#include "hmm_test_common.h"

/* A debug kernel in an emulator takes its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

/* More than a driver's batch of 64, and no multiple of it. */
#define SOME	70
#define LARGE	(2 * HUGE_PAGES)

/* Devices of a fixture. Return: NULL, or why there are none. */
static const char *open_devices(struct mirror *device, unsigned int nr,
				struct mirror *other, unsigned int other_nr)
{
	static char reason[80];
	int ret;

	other->fd = -1;
	ret = mirror_open(device, nr);
	if (!ret)
		ret = mirror_open(other, other_nr);
	if (!ret)
		return NULL;
	snprintf(reason, sizeof(reason), "no /dev/hmm_dmirror%u%s (%s)", nr,
		 nr >= 2 || other_nr >= 2 ?
		 ": test_hmm was not given memory for coherent devices" :
		 ": test_hmm is not loaded", strerror(-ret));
	return reason;
}

/* Both kinds of devices, by the numbers of their nodes. */
#define BOTH_KINDS(kind)						\
FIXTURE_VARIANT(kind)							\
{									\
	unsigned int device;						\
	unsigned int other;						\
};									\
FIXTURE_VARIANT_ADD(kind, device_private)				\
{									\
	.device = 0,							\
	.other = 1,							\
};									\
FIXTURE_VARIANT_ADD(kind, device_coherent)				\
{									\
	.device = 2,							\
	.other = 3,							\
}

/* A kind of promises that devices and some memory are enough for. */
#define PROMISES(kind)							\
FIXTURE(kind)								\
{									\
	struct mirror device;						\
	struct mirror other;						\
	struct area area;						\
};									\
BOTH_KINDS(kind);							\
FIXTURE_SETUP(kind)							\
{									\
	const char *lack = open_devices(&self->device, variant->device, \
					&self->other, variant->other);	\
									\
	if (lack)							\
		SKIP(return, "%s", lack);				\
	ASSERT_EQ(0, area_map(&self->area, SOME));			\
}									\
FIXTURE_TEARDOWN(kind)							\
{									\
	mirror_close(&self->device);					\
	mirror_close(&self->other);					\
}

/*
 * A huge page, which khugepaged does not make again of what comes of it.
 * Return: NULL, or why there is none.
 */
static const char *map_huge(struct area *huge, uint64_t contents)
{
	if (!thp_allowed())
		return "transparent huge pages are off";
	if (area_map(huge, HUGE_PAGES) ||
	    madvise(huge->at, HUGE_SIZE, MADV_HUGEPAGE))
		return "no memory for a huge page can be mapped";
	area_fill(huge, contents);
	if (smaps_pages(huge->at, "AnonHugePages") != HUGE_PAGES)
		return "no huge page to be had";
	return madvise(huge->at, HUGE_SIZE, MADV_NOHUGEPAGE) ?
	       "khugepaged cannot be kept out" : NULL;
}

/*
 * Mirroring: the device sees what the CPU sees
 */

PROMISES(mirroring)

TEST_F(mirroring, device_reads_what_the_cpu_wrote)
{
	area_fill(&self->area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, &self->area, 1));
	EXPECT_EQ(SOME, self->device.pages);
	EXPECT_NE(0, self->device.faults);
	EXPECT_EQ(0, cpu_wrong(&self->area, 1));
}

TEST_F(mirroring, cpu_reads_what_the_device_wrote)
{
	area_fill_part(&self->area, 0, SOME / 2, 1);
	ASSERT_EQ(0, device_fill(&self->device, &self->area, 2));
	EXPECT_EQ(SOME, self->device.pages);
	EXPECT_EQ(0, cpu_wrong(&self->area, 2));
}

TEST_F(mirroring, cpu_and_device_take_turns)
{
	unsigned int turn;

	for (turn = 1; turn < 20; turn += 2) {
		area_fill(&self->area, turn);
		ASSERT_EQ(0, device_wrong(&self->device, &self->area, turn));
		ASSERT_EQ(0, device_fill(&self->device, &self->area, turn + 1));
		ASSERT_EQ(0, cpu_wrong(&self->area, turn + 1));
	}
}

TEST_F(mirroring, untouched_memory_reads_as_zeroes)
{
	EXPECT_EQ(0, device_wrong(&self->device, &self->area, 0));
	EXPECT_EQ(0, cpu_wrong(&self->area, 0));
}

TEST_F(mirroring, what_is_mapped_needs_no_second_fault)
{
	area_fill(&self->area, 1);
	EXPECT_TRUE(eventually(!device_wrong(&self->device, &self->area, 1) &&
			       !self->device.faults));
}

#define LONG_PAGES	(3 * 4096UL)

/* From a page table of the device that has nothing of the area. */
static bool one_fault(struct mirror *m, const struct area *area,
		      unsigned long request)
{
	madvise(area->at, area->pages * PAGE, MADV_DONTNEED);
	return !mirror_call(m, request, area->at, area->pages, area->buffer) &&
	       m->pages == area->pages && m->faults == 1;
}

TEST_F(mirroring, long_command_counts_one_fault)
{
	struct area area;

	ASSERT_EQ(0, area_map(&area, LONG_PAGES));
	EXPECT_TRUE(eventually(one_fault(&self->device, &area,
					 HMM_DMIRROR_READ)));
	EXPECT_TRUE(eventually(one_fault(&self->device, &area,
					 HMM_DMIRROR_WRITE)));
}

TEST_F(mirroring, looking_faults_nothing_in)
{
	unsigned char places[SOME];
	size_t i;

	memset(places, 0xaa, SOME);
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_SNAPSHOT,
				 self->area.at, SOME, places));
	EXPECT_EQ(SOME, self->device.pages);
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(HMM_DMIRROR_PROT_NONE, places[i]);
	EXPECT_EQ(0, pagemap_count(&self->area, PAGEMAP_PRESENT));
}

TEST_F(mirroring, zero_page_is_seen_as_such)
{
	unsigned char *at = self->area.at;

	madvise(at, SOME * PAGE, MADV_NOHUGEPAGE);
	ASSERT_EQ(0, device_wrong(&self->device, &self->area, 0));
	EXPECT_EQ(HMM_DMIRROR_PROT_ZERO | HMM_DMIRROR_PROT_READ,
		  mirror_place(&self->device, at));

	ASSERT_EQ(0, device_fill_part(&self->device, &self->area, 0, 1, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, mirror_place(&self->device, at));
	EXPECT_EQ(0, cpu_wrong_part(&self->area, 0, 1, 1));
	EXPECT_EQ(0, cpu_wrong_part(&self->area, 1, SOME - 1, 0));
}

TEST_F(mirroring, huge_page_is_seen_as_one)
{
	unsigned char places[HUGE_PAGES];
	struct area huge;
	size_t i;
	const char *lack = map_huge(&huge, 1);

	if (lack)
		SKIP(return, "%s", lack);

	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_SNAPSHOT, huge.at,
				 HUGE_PAGES, places));
	for (i = 0; i < HUGE_PAGES; i++)
		ASSERT_EQ(HMM_DMIRROR_PROT_WRITE | HMM_DMIRROR_PROT_PMD,
			  places[i]);
	EXPECT_EQ(0, device_wrong(&self->device, &huge, 1));
	ASSERT_EQ(0, device_fill_part(&self->device, &huge, 100, SOME, 2));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 100, SOME, 2));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 0, 100, 1));
}

/* One read of the CPU maps it, where it is in use; else the ordinary one. */
static const char *map_huge_zeroes(struct area *huge)
{
	if (!thp_allowed())
		return "transparent huge pages are off";
	if (area_map(huge, HUGE_PAGES) ||
	    madvise(huge->at, HUGE_SIZE, MADV_HUGEPAGE) ||
	    cpu_try(huge->at, CPU_READ))
		return "no memory for a huge page can be mapped";
	return pagemap_count(huge, PAGEMAP_PRESENT) == HUGE_PAGES ?
	       NULL : "no huge zero page";
}

TEST_F(mirroring, huge_zero_page_is_never_written)
{
	struct area huge, twin;
	const char *lack = map_huge_zeroes(&huge) ?: map_huge_zeroes(&twin);

	if (lack)
		SKIP(return, "%s", lack);
	EXPECT_EQ(0, HMM_DMIRROR_PROT_WRITE &
		  mirror_place(&self->device, huge.at));
	EXPECT_EQ(0, device_wrong(&self->device, &huge, 0));
	ASSERT_EQ(0, device_fill_part(&self->device, &huge, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 0, 300, 0));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 302, HUGE_PAGES - 302, 0));
	EXPECT_EQ(0, cpu_wrong(&twin, 0));
}

TEST_F(mirroring, unmapped_memory_is_out_of_reach)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, munmap(area_page(area, 10), 20 * PAGE));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, 10, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, 29, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(&self->device, area, 10, 1, 2));
	EXPECT_EQ(HMM_DMIRROR_PROT_ERROR,
		  mirror_place(&self->device, area_page(area, 10)));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 10, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 30, SOME - 30, 1));
}

TEST_F(mirroring, new_mapping_shows_nothing_of_the_old)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_NE(MAP_FAILED, mmap(area_page(area, 1), PAGE,
				   PROT_READ | PROT_WRITE, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 1, 1, 0));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 1, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 2, SOME - 2, 1));
}

TEST_F(mirroring, discarded_memory_reads_as_zeroes)
{
	area_fill(&self->area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, &self->area, 1));
	ASSERT_EQ(0, madvise(self->area.at, SOME * PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, device_wrong(&self->device, &self->area, 0));
}

/*
 * More than a driver forgets in one go, and from where its tables begin. What it
 * has not forgotten then is what lies behind.
 */
#define MUCH	4224
#define BEHIND	4096

TEST_F(mirroring, nothing_is_left_of_much_memory)
{
	const size_t align = 4 * BEHIND * PAGE;
	struct area all, much = { .pages = MUCH };
	size_t skip, i, reached;

	ASSERT_EQ(0, area_map(&all, 6 * BEHIND));
	much.buffer = all.buffer;
	for (skip = 0; skip < 128; skip += 64) {
		much.at = (void *)(((uintptr_t)all.at + align) & ~(align - 1));
		much.at += skip * PAGE;
		ASSERT_EQ(0, mprotect(much.at, MUCH * PAGE, PROT_READ));
		ASSERT_EQ(0, device_wrong(&self->device, &much, 0));
		ASSERT_EQ(0, mprotect(much.at, MUCH * PAGE, PROT_NONE));
		for (i = BEHIND - 64, reached = 0; i < MUCH; i++)
			reached += device_wrong_part(&self->device, &much, i, 1,
						     0) != -EFAULT;
		EXPECT_EQ(0, reached);
	}
}

TEST_F(mirroring, moved_mapping_is_found_at_its_new_place)
{
	struct area to, *area = &self->area;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(to.at, mremap(area->at, SOME * PAGE, SOME * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to.at));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, device_wrong(&self->device, &to, 1));
	ASSERT_EQ(0, device_fill(&self->device, &to, 2));
	EXPECT_EQ(0, cpu_wrong(&to, 2));
}

TEST_F(mirroring, access_spans_mappings)
{
	struct area *area = &self->area;

	ASSERT_EQ(0, madvise(area_page(area, 5), 20 * PAGE, MADV_DONTFORK));
	ASSERT_EQ(0, madvise(area_page(area, 30), PAGE, MADV_DONTDUMP));
	area_fill(area, 1);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(mirroring, access_that_leaves_the_mapping_fails)
{
	struct mirror *m = &self->device;
	unsigned char buffer[2 * PAGE];
	struct area *area = &self->area;

	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_READ,
				       area_page(area, SOME - 1), 2, buffer));
	EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_READ,
				       area->at - PAGE, 2, buffer));
	EXPECT_EQ(0, device_wrong(m, area, 1));
}

TEST_F(mirroring, every_kind_of_memory_of_the_process_is_there)
{
	static uint64_t data[3 * MOST_PAGE / sizeof(uint64_t)];
	uint64_t stack[3 * MOST_PAGE / sizeof(uint64_t)];
	uint64_t *heap = calloc(3, PAGE), *all[3];
	void *text = (void *)((uintptr_t)mirror_call & ~(PAGE - 1));
	size_t i;

	all[0] = data, all[1] = stack, all[2] = heap;
	for (i = 0; i < 3; i++) {
		uint64_t *in = (void *)(((uintptr_t)all[i] + PAGE) &
					~(PAGE - 1));

		contents_fill(in, 0, 1, i + 1);
		ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_READ, in, 1,
					 self->area.buffer));
		EXPECT_EQ(0, contents_wrong(self->area.buffer, 0, 1, i + 1));
		/* the same again: others have data in this page */
		EXPECT_EQ(0, contents_wrong(in, 0, 1, i + 1));
	}
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_READ, text, 1,
				 self->area.buffer));
	EXPECT_EQ(0, memcmp(self->area.buffer, text, PAGE));
	free(heap);
}

/* The page of variables that the kernel maps for the vDSO has no VMA of RAM. */
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

TEST_F(mirroring, memory_without_pages_is_refused)
{
	void *at = find_pfn_map();

	if (!at)
		SKIP(return, "no [vvar] in /proc/self/maps");
	EXPECT_EQ(HMM_DMIRROR_PROT_ERROR, mirror_place(&self->device, at));
	EXPECT_EQ(-EFAULT, mirror_call(&self->device, HMM_DMIRROR_READ, at, 1,
				       self->area.buffer));
	EXPECT_NE(0, mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_DEV, at,
				 1, self->area.buffer));
}

static void unpoison_pfn(uint64_t pfn)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)pfn);
	race_write_file("/sys/kernel/debug/hwpoison/unpoison-pfn", text);
}

TEST_F(mirroring, poisoned_page_is_refused)
{
	struct area *area = &self->area;
	unsigned char *at = area_page(area, 3);
	volatile int error = 0;
	uint64_t pfn;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	pfn = pagemap_of(getpid(), at) & PAGEMAP_PFN;
	/* the kernel sends SIGBUS to who meets the poison */
	signal(SIGBUS, SIG_IGN);
	if (!sigsetjmp(cpu_access_over, 1)) {
		signal(SIGBUS, cpu_access_failed);
		error = madvise(at, PAGE, MADV_HWPOISON) ? errno : 0;
	}
	signal(SIGBUS, SIG_DFL);
	if (error == EPERM || error == EINVAL)
		SKIP(return, "no MADV_HWPOISON: %s", strerror(error));
	ASSERT_EQ(0, error);
	EXPECT_EQ(SIGBUS, cpu_try(at, CPU_READ));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, 3, 1, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(&self->device, area, 3, 1, 2));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, held_part(&self->device, area, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 4, SOME - 4, 1));
	munmap(at, PAGE);
	unpoison_pfn(pfn);
}

/*
 * Protection: the device may do what the process may
 */

PROMISES(protection)

TEST_F(protection, read_only_memory_takes_no_write)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, HMM_DMIRROR_PROT_READ &
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, HMM_DMIRROR_PROT_WRITE &
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(protection, right_to_write_can_be_taken_and_given)
{
	struct area *area = &self->area;

	ASSERT_EQ(0, device_fill(&self->device, area, 1));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_fill(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(protection, memory_without_access_is_refused)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill(&self->device, area, 2));
	EXPECT_NE(0, mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_DEV,
				 area->at, SOME, area->buffer));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

TEST_F(protection, device_memory_can_be_made_read_only)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, held(&self->device, area));

	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_fill(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(protection, device_memory_can_be_made_inaccessible)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill(&self->device, area, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_READ));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(protection, read_only_memory_stays_so_on_its_way)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* Clean and writable is what MADV_FREE leaves, for one. */
TEST_F(protection, device_write_makes_memory_dirty)
{
	struct area *area = &self->area;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	ASSERT_TRUE(eventually(!madvise(area->at, SOME * PAGE, MADV_FREE) &&
			       !smaps_pages(area->at, "Private_Dirty")));
	EXPECT_EQ(0, HMM_DMIRROR_PROT_WRITE &
		  mirror_place(&self->device, area->at));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/*
 * Copy on write and fork: as without a device
 */

PROMISES(cow)

enum writer { PARENT_CPU, PARENT_DEVICE, CHILD_CPU, CHILD_DEVICE };
enum place { IN_SYSTEM, IN_DEVICE };

/* In the child. What the parent writes must not show, nor the reverse. */
static void cow_child(struct __test_metadata *_metadata, struct area *area,
		      struct peer *parent, unsigned int node,
		      enum writer writer)
{
	struct mirror own;

	ASSERT_EQ(0, mirror_open(&own, node));
	ASSERT_TRUE(peer_hear(parent));
	if (writer == CHILD_CPU)
		area_fill(area, 2);
	else if (writer == CHILD_DEVICE)
		ASSERT_EQ(0, device_fill(&own, area, 2));
	EXPECT_EQ(0, device_wrong(&own, area, writer >= CHILD_CPU ? 2 : 1));
	EXPECT_EQ(0, cpu_wrong(area, writer >= CHILD_CPU ? 2 : 1));
	ASSERT_TRUE(peer_tell(parent));
	ASSERT_TRUE(peer_hear(parent));
	_exit(0);
}

static void check_cow(struct __test_metadata *_metadata, struct mirror *m,
		      unsigned int node, struct area *area, enum place place,
		      enum writer writer)
{
	struct peer child;

	area_fill(area, 1);
	if (place == IN_DEVICE)
		ASSERT_EQ(SOME, to_device(m, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		cow_child(_metadata, area, &child, node, writer);

	if (place == IN_DEVICE)
		EXPECT_EQ(SOME, held(m, area));
	if (writer == PARENT_CPU)
		area_fill(area, 2);
	else if (writer == PARENT_DEVICE)
		ASSERT_EQ(0, device_fill(m, area, 2));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, device_wrong(m, area, writer >= CHILD_CPU ? 1 : 2));
	EXPECT_EQ(0, cpu_wrong(area, writer >= CHILD_CPU ? 1 : 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

#define CHECK_COW(place, writer)					\
	check_cow(_metadata, &self->device, variant->device,		\
		  &self->area, place, writer)

TEST_F(cow, parent_writes_alone)
{
	CHECK_COW(IN_SYSTEM, PARENT_CPU);
}

TEST_F(cow, parents_device_writes_alone)
{
	CHECK_COW(IN_SYSTEM, PARENT_DEVICE);
}

TEST_F(cow, child_writes_alone)
{
	CHECK_COW(IN_SYSTEM, CHILD_CPU);
}

TEST_F(cow, childs_device_writes_alone)
{
	CHECK_COW(IN_SYSTEM, CHILD_DEVICE);
}

TEST_F(cow, parent_writes_device_memory_alone)
{
	CHECK_COW(IN_DEVICE, PARENT_CPU);
}

TEST_F(cow, parents_device_writes_its_memory_alone)
{
	CHECK_COW(IN_DEVICE, PARENT_DEVICE);
}

TEST_F(cow, child_writes_device_memory_alone)
{
	CHECK_COW(IN_DEVICE, CHILD_CPU);
}

TEST_F(cow, childs_device_writes_its_memory_alone)
{
	CHECK_COW(IN_DEVICE, CHILD_DEVICE);
}

/* How many pages are the same in both processes. */
static long pages_shared(const struct area *area, pid_t pid)
{
	long shared = 0;
	size_t i;

	for (i = 0; i < area->pages; i++) {
		uint64_t mine = pagemap_of(getpid(), area_page(area, i));
		uint64_t theirs = pagemap_of(pid, area_page(area, i));

		shared += (mine & theirs & PAGEMAP_PRESENT) &&
			  (mine & PAGEMAP_PFN) == (theirs & PAGEMAP_PFN);
	}
	return shared;
}

TEST_F(cow, reading_leaves_pages_shared)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		peer_hear(&child);
		_exit(0);
	}
	ASSERT_EQ(SOME, pages_shared(area, child.pid));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, pages_shared(area, child.pid));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 0, 1, 2));
	EXPECT_EQ(SOME - 1, pages_shared(area, child.pid));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_F(cow, fork_leaves_device_memory_where_it_is_for_both)
{
	struct area *area = &self->area;
	struct mirror own;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 1));
		EXPECT_EQ(SOME, held(&own, area));
		peer_tell(&child);
		peer_hear(&child);
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(cow, memory_shared_by_fork_moves_for_both)
{
	struct area *area = &self->area;
	struct mirror own;
	struct peer child;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		area_fill(area, 2);
		_exit(0);
	}
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(false, peer_hear(&child));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_F(cow, device_memory_outlives_the_child)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		_exit(0);
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The one who moved the memory, and had the file, goes first. */
static void moves_and_goes(struct __test_metadata *_metadata, unsigned int node,
			   struct area *area, struct peer *parent)
{
	struct mirror own;
	struct peer heir;

	ASSERT_EQ(0, mirror_open(&own, node));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&own, area));
	ASSERT_EQ(0, peer_fork(&heir));
	if (heir.pid)
		_exit(0);
	mirror_close(&own);
	ASSERT_EQ(false, peer_hear(&heir));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	area_fill(area, 2);
	ASSERT_EQ(0, mirror_open(&own, node));
	EXPECT_EQ(0, device_wrong(&own, area, 2));
	EXPECT_EQ(SOME, to_device(&own, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	peer_tell(parent);
	_exit(0);
}

TEST_F(cow, device_memory_outlives_the_parent)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		moves_and_goes(_metadata, variant->device, &self->area, &child);
	/* the heir's word, which has the child's end of the socket */
	EXPECT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* Each generation changes a page of its own; the others are its ancestors'. */
static void check_generations(struct __test_metadata *_metadata,
			      struct mirror *m, struct area *area,
			      unsigned int node, unsigned int left)
{
	size_t page = left;
	struct mirror own;
	struct peer child;

	ASSERT_EQ(SOME, to_device(m, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		area_fill_part(area, page, 1, 2);
		ASSERT_EQ(0, mirror_open(&own, node));
		if (left)
			check_generations(_metadata, &own, area, node,
					  left - 1);
		EXPECT_EQ(0, device_wrong_part(&own, area, page, 1, 2));
		EXPECT_EQ(0, cpu_wrong_part(area, 0, page, 1));
		_exit(0);
	}
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong_part(m, area, 0, page + 1, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, page + 1, 1));
}

TEST_F(cow, generations_of_processes_have_their_own)
{
	area_fill(&self->area, 1);
	check_generations(_metadata, &self->device, &self->area,
			  variant->device, 4);
	EXPECT_EQ(0, cpu_wrong(&self->area, 1));
}

TEST_F(cow, what_a_child_is_not_to_have_it_does_not_get)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, madvise(area_page(area, 10), 10 * PAGE,
			     MADV_WIPEONFORK));
	ASSERT_EQ(0, madvise(area_page(area, 30), 10 * PAGE, MADV_DONTFORK));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		EXPECT_EQ(0, cpu_wrong_part(area, 0, 10, 1));
		EXPECT_EQ(0, cpu_wrong_part(area, 10, 10, 0));
		EXPECT_EQ(0, cpu_wrong_part(area, 20, 10, 1));
		EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 30), CPU_READ));
		EXPECT_EQ(0, cpu_wrong_part(area, 40, SOME - 40, 1));
		_exit(0);
	}
	EXPECT_EQ(0, peer_end(&child));
	/* what the child never had is where it was */
	EXPECT_LE(20, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(cow, zero_page_is_never_written)
{
	struct area other;

	ASSERT_EQ(0, area_map(&other, SOME));
	EXPECT_EQ(0, cpu_wrong(&self->area, 0));
	EXPECT_EQ(0, cpu_wrong(&other, 0));
	ASSERT_EQ(0, device_fill(&self->device, &self->area, 1));
	EXPECT_EQ(0, cpu_wrong(&self->area, 1));
	EXPECT_EQ(0, cpu_wrong(&other, 0));
	EXPECT_EQ(0, device_wrong(&self->device, &other, 0));
}

/*
 * Migration: memory moves into the device and back, whole
 */

PROMISES(migration)

TEST_F(migration, memory_moves_to_the_device_and_back)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, held(&self->device, area));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, held(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(migration, device_works_on_its_memory_in_place)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	EXPECT_EQ(SOME, held(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* The mirror of another file of the device has no entries for the pages yet. */
TEST_F(migration, device_finds_its_memory_by_the_mirror)
{
	struct area *area = &self->area;
	struct mirror again;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mirror_open(&again, variant->device));
	EXPECT_EQ(SOME, held(&again, area));
	EXPECT_EQ(0, device_wrong(&again, area, 1));
	ASSERT_EQ(0, device_fill(&again, area, 2));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	mirror_close(&again);
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(migration, holes_move_as_zeroes)
{
	struct area *area = &self->area;

	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 0));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 7, 1, 1));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 7, 0));
	EXPECT_EQ(0, cpu_wrong_part(area, 7, 1, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 8, SOME - 8, 0));
}

TEST_F(migration, zero_pages_move_as_zeroes)
{
	struct area *area = &self->area;

	EXPECT_EQ(0, cpu_wrong(area, 0));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 0));
	ASSERT_EQ(0, device_fill(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(migration, large_areas_move)
{
	struct area large;

	ASSERT_EQ(0, area_map(&large, LARGE));
	area_fill(&large, 1);
	ASSERT_EQ(LARGE, to_device(&self->device, &large));
	EXPECT_EQ(0, device_wrong(&self->device, &large, 1));
	ASSERT_EQ(0, device_fill(&self->device, &large, 2));
	ASSERT_EQ(0, to_system(&self->device, &large));
	EXPECT_EQ(0, cpu_wrong(&large, 2));
}

TEST_F(migration, part_of_a_huge_page_moves_alone)
{
	struct area huge;
	const char *lack = map_huge(&huge, 1);

	if (lack)
		SKIP(return, "%s", lack);

	ASSERT_EQ(3, to_device_part(&self->device, &huge, 100, 3));
	EXPECT_EQ(3, held(&self->device, &huge));
	EXPECT_EQ(0, device_wrong(&self->device, &huge, 1));
	ASSERT_EQ(0, device_fill_part(&self->device, &huge, 101, 1, 2));
	EXPECT_EQ(3, held(&self->device, &huge));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 0, 101, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 101, 1, 2));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 102, HUGE_PAGES - 102, 1));
}

TEST_F(migration, huge_zero_page_moves_as_zeroes)
{
	struct area huge;
	const char *lack = map_huge_zeroes(&huge);

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(HUGE_PAGES, to_device(&self->device, &huge));
	EXPECT_EQ(0, device_wrong(&self->device, &huge, 0));
	ASSERT_EQ(0, device_fill_part(&self->device, &huge, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 0, 300, 0));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 302, HUGE_PAGES - 302, 0));
}

/* A change of one page's protection splits the mapping, and not the page. */
TEST_F(migration, huge_page_mapped_by_small_entries_moves)
{
	struct area huge;
	const char *lack = map_huge(&huge, 1);

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, mprotect(area_page(&huge, 77), PAGE, PROT_READ));
	EXPECT_EQ(0, smaps_pages(huge.at, "AnonHugePages"));
	EXPECT_EQ(0, device_wrong(&self->device, &huge, 1));
	ASSERT_EQ(HUGE_PAGES, to_device(&self->device, &huge));
	EXPECT_EQ(-EPERM, device_fill_part(&self->device, &huge, 77, 1, 2));
	EXPECT_EQ(0, device_fill_part(&self->device, &huge, 78, 1, 2));
	ASSERT_EQ(0, to_system(&self->device, &huge));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 0, 78, 1));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 78, 1, 2));
	EXPECT_EQ(0, cpu_wrong_part(&huge, 79, HUGE_PAGES - 79, 1));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(&huge, 77), CPU_WRITE));
}

#define THP_64K	"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"

static bool choose_64k(const char *mode)
{
	return !race_write_file(THP_64K, mode);
}

/* What the file of a choice has in brackets. */
static void chosen(const char *path, char *choice, size_t size)
{
	char line[80] = "", *from, *to;
	FILE *file = fopen(path, "r");

	choice[0] = 0;
	if (!file)
		return;
	if (fgets(line, sizeof(line), file)) {
		from = strchr(line, '[');
		to = from ? strchr(from, ']') : NULL;
		if (to)
			snprintf(choice, size, "%.*s", (int)(to - from - 1),
				 from + 1);
	}
	fclose(file);
}

TEST_F(migration, pages_of_64_kib_move)
{
	struct area *area = &self->area;
	char before[24];

	chosen(THP_64K, before, sizeof(before));
	if (!before[0] || !choose_64k("always"))
		SKIP(return, "no pages of 64 KiB");
	area_fill(area, 1);
	choose_64k(before);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(5, to_device_part(&self->device, area, 18, 5));
	EXPECT_EQ(5, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* Page by page: data, a hole, the zero page, and the device's already. */
TEST_F(migration, mixed_memory_moves)
{
	struct area *area = &self->area;
	size_t i;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	for (i = 0; i < SOME; i++) {
		if (i % 4 == 2)
			ASSERT_EQ(0, cpu_wrong_part(area, i, 1, 0));
		if (i % 2)
			continue;
		if (i % 4 == 0)
			area_fill_part(area, i, 1, 1);
		if (i % 3 == 0)
			ASSERT_EQ(1, to_device_part(&self->device, area, i, 1));
	}
	ASSERT_EQ(SOME, to_device(&self->device, area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, device_wrong_part(&self->device, area, i, 1,
					       i % 4 == 0));
	ASSERT_EQ(0, to_system(&self->device, area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, cpu_wrong_part(area, i, 1, i % 4 == 0));
}

TEST_F(migration, range_of_several_mappings_moves)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mprotect(area_page(area, 20), 9 * PAGE, PROT_READ));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(-EPERM, device_fill_part(&self->device, area, 28, 1, 2));
	EXPECT_EQ(0, device_fill_part(&self->device, area, 29, 1, 2));
	EXPECT_EQ(SOME, held(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 29, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 29, 1, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 20), CPU_WRITE));
	EXPECT_EQ(0, cpu_try(area_page(area, 19), CPU_WRITE));
}

TEST_F(migration, range_that_leaves_the_mapping_loses_nothing)
{
	struct area *area = &self->area;
	unsigned char *buffer = malloc((SOME + 1) * PAGE);

	area_fill(area, 1);
	EXPECT_EQ(-EINVAL, mirror_call(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_DEV, area->at,
				       SOME + 1, buffer));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(-EINVAL, mirror_call(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_SYS, area->at,
				       SOME + 1, buffer));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	free(buffer);
}

TEST_F(migration, what_is_there_already_stays)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_SYS,
				 area->at, SOME, area->buffer));
	EXPECT_EQ(0, self->device.pages);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

struct protector {
	struct area *area;
	atomic_bool over;
};

/* Each time the device has to look its pages up again. */
static void *protect_again_and_again(void *data)
{
	struct protector *p = data;

	while (!p->over) {
		mprotect(p->area->at, SOME * PAGE, PROT_READ);
		mprotect(p->area->at, SOME * PAGE, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

TEST_F(migration, what_is_there_is_found_between_invalidations)
{
	struct protector p = { .area = &self->area };
	struct area *area = &self->area;
	pthread_t thread;
	unsigned int i;
	int ret = 0;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, pthread_create(&thread, NULL, protect_again_and_again,
				    &p));
	for (i = 0; i < 8 && !ret; i++)
		ret = mirror_call_once(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_DEV, area->at,
				       SOME, area->buffer);
	p.over = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

static int node_of(const void *at)
{
	int node = -1;

	syscall(SYS_get_mempolicy, &node, NULL, 0, at,
		MPOL_F_NODE | MPOL_F_ADDR);
	return node;
}

static int bind_to_node(const struct area *area, int node)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_mbind, area->at, area->pages * PAGE, MPOL_BIND,
		       &mask, 8 * sizeof(mask), 0) ? -errno : 0;
}

/* By a command the first time, by a fault of the CPU the second. */
TEST_F(migration, memory_comes_home_to_the_node_of_its_policy)
{
	struct area *area = &self->area;
	unsigned int turn;
	size_t i;

	if (bind_to_node(area, 1))
		SKIP(return, "there is no second node: %s", strerror(errno));
	for (turn = 0; turn < 4; turn++) {
		area_fill(area, turn);
		ASSERT_EQ(SOME, to_device(&self->device, area));
		ASSERT_EQ(0, bind_to_node(area, turn % 2));
		ASSERT_EQ(0, turn / 2 && variant->device < 2 ?
			     cpu_wrong(area, turn) :
			     to_system(&self->device, area));
		for (i = 0; i < SOME; i++)
			EXPECT_EQ((int)turn % 2, node_of(area_page(area, i)));
	}
}

TEST_F(migration, many_round_trips_lose_nothing)
{
	uint64_t random = 1;
	struct area *area = &self->area;
	unsigned int i;

	area_fill(area, 1);
	for (i = 0; i < 100; i++) {
		size_t page = race_below(&random, SOME);
		size_t pages = 1 + race_below(&random, SOME - page);

		ASSERT_EQ((long)pages,
			  to_device_part(&self->device, area, page, pages));
		page = race_below(&random, SOME);
		pages = 1 + race_below(&random, SOME - page);
		ASSERT_EQ(0, to_system_part(&self->device, area, page, pages));
		ASSERT_EQ(0, cpu_wrong_part(area, page, pages, 1));
	}
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(migration, locked_memory_stays_locked)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	ASSERT_EQ(SOME, smaps_pages(area->at, "Locked"));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Locked"));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, munlock(area->at, SOME * PAGE));
	EXPECT_EQ(0, smaps_pages(area->at, "Locked"));
}

/* Pages that the system takes to be locked. */
static long pages_locked(void)
{
	race_write_file("/proc/sys/vm/stat_refresh", "1");
	return race_read_number("/proc/meminfo", "Mlocked") / 4;
}

TEST_F(migration, locked_memory_that_goes_is_not_counted_any_more)
{
	struct area *area = &self->area;
	long before = pages_locked();

	area_fill(area, 1);
	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	EXPECT_LE(before + SOME, pages_locked());
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, munlock(area->at, SOME / 2 * PAGE));
	ASSERT_EQ(0, munmap(area->at, SOME * PAGE));
	EXPECT_TRUE(eventually(pages_locked() <= before));
}

/* Pages of an area of equal pages that are the same as the first one. */
static long pages_merged(const struct area *area)
{
	uint64_t first = pagemap_of(getpid(), area->at);
	long merged = 0;
	size_t i;

	if (!(first & PAGEMAP_PRESENT))
		return 0;
	for (i = 0; i < area->pages; i++)
		merged += !((pagemap_of(getpid(), area_page(area, i)) ^ first) &
			    (PAGEMAP_PRESENT | PAGEMAP_PFN));
	return merged;
}

/* ksmd has its own pace: a minute and more. */
static bool ksmd_merges(const struct area *area)
{
	unsigned int tries;

	for (tries = 0; tries < 60 * TRIES; tries++) {
		if (pages_merged(area) == (long)area->pages)
			return true;
		race_pause_elsewhere(TRY_AGAIN_MS);
	}
	return false;
}

/* ksmd reads such pages whenever it likes. It is started for the test only. */
TEST_F(migration, merged_pages_stay_where_ksmd_can_read_them)
{
	struct area *area = &self->area;
	char was[24];
	bool merged;
	size_t i;

	snprintf(was, sizeof(was), "%ld",
		 race_read_number("/sys/kernel/mm/ksm/run", NULL));
	for (i = 0; i < SOME; i++)
		contents_fill(area_page(area, i), 0, 1, 1);
	if (madvise(area->at, SOME * PAGE, MADV_MERGEABLE) ||
	    race_write_file("/sys/kernel/mm/ksm/run", "1"))
		SKIP(return, "no KSM: %s", strerror(errno));
	merged = ksmd_merges(area);
	race_write_file("/sys/kernel/mm/ksm/run", was);
	ASSERT_TRUE(merged);
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(SOME, pages_merged(area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, contents_wrong(area_page(area, i), 0, 1, 1));
	EXPECT_EQ(0, madvise(area->at, SOME * PAGE, MADV_UNMERGEABLE));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, contents_wrong(area_page(area, i), 0, 1, 1));
}

/*
 * Device memory stays on the device unless somebody needs it elsewhere
 */

PROMISES(staying)

static int protect(const struct area *area, size_t page, size_t pages, int prot)
{
	return mprotect(area_page(area, page), pages * PAGE, prot) ? -errno : 0;
}

/* The device writes to all of the memory, which does not move for that. */
static void check_written_in_place(struct __test_metadata *_metadata,
				   struct mirror *m, struct area *area,
				   uint64_t contents)
{
	EXPECT_EQ((long)area->pages, held(m, area));
	ASSERT_EQ(0, device_fill(m, area, contents));
	EXPECT_EQ((long)area->pages, held(m, area));
	EXPECT_EQ(mirror_local(m) | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(m, area->at));
}

TEST_F(staying, memory_stays_after_mprotect)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, &self->device, area, 2);
	ASSERT_EQ(0, protect(area, 10, 20, PROT_NONE));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, &self->device, area, 3);
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(staying, memory_of_several_mappings_stays)
{
	struct area *area = &self->area;
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ));
	for (i = 0; i < SOME; i += 10)
		ASSERT_EQ(0, protect(area, i, 10, PROT_READ | PROT_WRITE |
				     (i % 20 ? PROT_EXEC : 0)));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(staying, memory_migrated_read_only_stays)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(SOME, held(&self->device, area));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, &self->device, area, 3);
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(staying, memory_stays_after_mremap)
{
	struct area *area = &self->area;
	unsigned char *to = area_reserve(SOME);

	ASSERT_NE(NULL, to);
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ));
	ASSERT_EQ(to, mremap(area->at, SOME * PAGE, SOME * PAGE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	area->at = to;
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(staying, private_copies_of_a_file_stay)
{
	int fd = memfd_create("hmm-tests", 0);
	struct area area;

	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&area, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, fd));
	area_fill(&area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, &area));
	ASSERT_EQ(0, protect(&area, 0, SOME, PROT_READ));
	ASSERT_EQ(0, protect(&area, 0, SOME, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, &self->device, &area, 2);
	EXPECT_EQ(0, cpu_wrong(&area, 2));
	close(fd);
}

TEST_F(staying, memory_stays_after_the_child_exits)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		_exit(0);
	ASSERT_EQ(0, peer_end(&child));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(staying, memory_shared_before_it_moved_stays)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		_exit(0);
	ASSERT_EQ(0, peer_end(&child));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(&self->device, area->at));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* The other program runs until it reads the end of its input. */
TEST_F(staying, memory_stays_after_the_child_executes)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		dup2(child.sock, STDIN_FILENO);
		dup2(child.sock, STDOUT_FILENO);
		execlp("sh", "sh", "-c", "echo; read end; exit 0", NULL);
		_exit(127);
	}
	ASSERT_TRUE(peer_hear(&child));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_F(staying, memory_stays_after_vfork)
{
	struct area *area = &self->area;
	pid_t child;
	int status;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	child = vfork();
	if (!child) {
		execlp("true", "true", NULL);
		_exit(127);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* The parent migrates, forks, and unmaps its own. */
TEST_F(staying, memory_stays_for_the_child_that_has_it_alone)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		ASSERT_TRUE(peer_hear(&child));
		check_written_in_place(_metadata, &own, area, 2);
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(!__test_passed(_metadata));
	}
	ASSERT_EQ(0, munmap(area->at, SOME * PAGE));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(false, peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* Every second page is the parent's alone: the child has discarded it. */
TEST_F(staying, only_shared_memory_is_copied)
{
	struct area *area = &self->area;
	struct peer child;
	long kept = 0;
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		for (i = 0; i < SOME; i += 2)
			madvise(area_page(area, i), PAGE, MADV_DONTNEED);
		peer_tell(&child);
		peer_hear(&child);
		for (i = 1; i < SOME; i += 2)
			EXPECT_EQ(0, cpu_wrong_part(area, i, 1, 1));
		_exit(!__test_passed(_metadata));
	}
	ASSERT_TRUE(peer_hear(&child));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	for (i = 0; i < SOME; i += 2)
		kept += held_part(&self->device, area, i, 1);
	EXPECT_EQ(SOME / 2, kept);
	EXPECT_EQ(SOME / 2, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/**
 * struct reader - a thread that takes pages from the device, by reading them
 * @area: the memory
 * @stop: to come to an end
 */
struct reader {
	struct area *area;
	atomic_bool stop;
};

static void *read_backwards(void *data)
{
	struct reader *reader = data;
	struct area *area = reader->area;
	size_t i;

	do {
		for (i = area->pages; i--; )
			*(volatile unsigned char *)area_page(area, i);
	} while (!reader->stop);
	return NULL;
}

/* A fault of the CPU has the page lock that the device needs. */
TEST_F(staying, device_writes_while_the_cpu_faults)
{
	struct area *area = &self->area;
	struct reader reader = { .area = area };
	pthread_t thread;
	unsigned int i;
	pid_t child;

	for (i = 1; i <= 20; i++) {
		area_fill(area, 1);
		ASSERT_EQ(SOME, to_device(&self->device, area));
		child = fork();
		if (!child)
			_exit(0);
		ASSERT_EQ(child, waitpid(child, NULL, 0));
		reader.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, read_backwards,
					    &reader));
		EXPECT_EQ(0, device_fill(&self->device, area, i + 1));
		reader.stop = true;
		pthread_join(thread, NULL);
		EXPECT_EQ(0, device_wrong(&self->device, area, i + 1));
		EXPECT_EQ(0, cpu_wrong(area, i + 1));
	}
}

/* Each has a page table of its own, which a new permission does not upset. */
TEST_F(staying, memory_stays_for_two_mirrors_of_one_device)
{
	struct area *area = &self->area;
	struct mirror second;

	ASSERT_EQ(0, mirror_open(&second, variant->device));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ));
	EXPECT_EQ(0, device_wrong(&second, area, 1));
	ASSERT_EQ(0, protect(area, 0, SOME, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_wrong(&second, area, 1));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(0, device_wrong(&second, area, 2));
	check_written_in_place(_metadata, &second, area, 3);
	EXPECT_EQ(0, device_wrong(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
	mirror_close(&second);
}

TEST_F(staying, soft_dirty_memory_stays)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, race_write_file("/proc/self/clear_refs", "4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	check_written_in_place(_metadata, &self->device, area, 2);
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* None of this needs the contents. */
TEST_F(staying, memory_stays_when_advice_is_given)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED,
				      MADV_NORMAL, MADV_DONTFORK, MADV_DOFORK,
				      MADV_NOHUGEPAGE, MADV_DONTDUMP };
	struct area *area = &self->area;
	struct iovec range = { area->at, SOME * PAGE };
	unsigned char resident[SOME];
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	for (i = 0; i < sizeof(advice) / sizeof(*advice); i++) {
		EXPECT_EQ(0, madvise(area->at, SOME * PAGE, advice[i]));
		EXPECT_EQ(SOME, held(&self->device, area));
	}
	EXPECT_EQ(SOME * PAGE, syscall(SYS_process_madvise, pidfd, &range, 1,
				       MADV_PAGEOUT, 0));
	EXPECT_EQ(0, mincore(area->at, SOME * PAGE, resident));
	EXPECT_LE(0, smaps_pages(area->at, "Rss"));
	EXPECT_EQ(0, race_write_file("/proc/self/clear_refs", "1"));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	close(pidfd);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The kernel may move what it can access. Device memory is not among that. */
TEST_F(staying, memory_stays_when_policies_change)
{
	struct area *area = &self->area;
	unsigned long nodes = 1;
	void *pages[SOME];
	int to[SOME] = {}, status[SOME];
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	if (syscall(SYS_mbind, area->at, SOME * PAGE, MPOL_BIND, &nodes,
		    8 * sizeof(nodes), MPOL_MF_MOVE))
		SKIP(return, "no mbind(): %s", strerror(errno));
	EXPECT_EQ(SOME, held(&self->device, area));
	for (i = 0; i < SOME; i++)
		pages[i] = area_page(area, i);
	EXPECT_LE(0, syscall(SYS_move_pages, 0, SOME, pages, NULL, status, 0));
	syscall(SYS_move_pages, 0, SOME, pages, to, status, MPOL_MF_MOVE);
	syscall(SYS_migrate_pages, 0, 8 * sizeof(nodes), &nodes, &nodes);
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * A range that a huge page would fit into, with small pages in it, of which
 * the first few are on the device.
 */
static void map_collapsible(struct __test_metadata *_metadata, struct mirror *m,
			    struct area *area)
{
	ASSERT_EQ(0, area_map(area, HUGE_PAGES));
	ASSERT_EQ(0, madvise(area->at, HUGE_SIZE, MADV_NOHUGEPAGE));
	area_fill(area, 1);
	if (m)
		ASSERT_EQ(8, to_device_part(m, area, 0, 8));
}

TEST_F(staying, memory_is_not_collapsed)
{
	struct area area;

	if (!thp_allowed())
		SKIP(return, "transparent huge pages are off");
	map_collapsible(_metadata, &self->device, &area);
	ASSERT_EQ(0, madvise(area.at, HUGE_SIZE, MADV_HUGEPAGE));
	EXPECT_EQ(-1, madvise(area.at, HUGE_SIZE, MADV_COLLAPSE));
	EXPECT_EQ(8, held(&self->device, &area));
	EXPECT_EQ(0, smaps_pages(area.at, "AnonHugePages"));
	EXPECT_EQ(0, device_wrong(&self->device, &area, 1));

	ASSERT_EQ(0, to_system(&self->device, &area));
	EXPECT_TRUE(eventually(!madvise(area.at, HUGE_SIZE, MADV_COLLAPSE)));
	EXPECT_EQ(HUGE_PAGES, smaps_pages(area.at, "AnonHugePages"));
	EXPECT_EQ(0, cpu_wrong(&area, 1));
}

#define KHUGEPAGED "/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* khugepaged has much to do on a slow machine: tries that are 10 ms apart */
#define KHUGEPAGED_TRIES	6000

/* Wait until a range is collapsed. Its pages have to be in use for that. */
static bool khugepaged_collapses(struct area *area)
{
	unsigned int tries = KHUGEPAGED_TRIES;

	while (!smaps_pages(area->at, "AnonHugePages") && tries--) {
		race_pause_ms(TRY_AGAIN_MS);
		area_fill(area, 1);
	}
	return smaps_pages(area->at, "AnonHugePages");
}

/* Wait until it has been everywhere once, from the beginning. */
static bool khugepaged_comes_round(void)
{
	long scans = race_read_number(KHUGEPAGED "full_scans", NULL);
	unsigned int tries = KHUGEPAGED_TRIES;

	while (race_read_number(KHUGEPAGED "full_scans", NULL) < scans + 2 &&
	       tries--)
		race_pause_ms(TRY_AGAIN_MS);
	return race_read_number(KHUGEPAGED "full_scans", NULL) >= scans + 2;
}

static void khugepaged_set_sleep(long ms)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", ms);
	race_write_file(KHUGEPAGED "scan_sleep_millisecs", text);
}

/* It collapses a range beside this one in the meantime. */
TEST_F(staying, memory_is_not_collapsed_by_khugepaged)
{
	long sleep = race_read_number(KHUGEPAGED "scan_sleep_millisecs", NULL);
	struct area area, beside;

	if (!thp_allowed())
		SKIP(return, "transparent huge pages are off");
	map_collapsible(_metadata, &self->device, &area);
	map_collapsible(_metadata, NULL, &beside);
	ASSERT_EQ(0, madvise(area.at, HUGE_SIZE, MADV_HUGEPAGE));
	ASSERT_EQ(0, madvise(beside.at, HUGE_SIZE, MADV_HUGEPAGE));
	khugepaged_set_sleep(10);
	EXPECT_TRUE(khugepaged_collapses(&beside));
	EXPECT_TRUE(khugepaged_comes_round());
	khugepaged_set_sleep(sleep);
	EXPECT_EQ(8, held(&self->device, &area));
	EXPECT_EQ(0, device_wrong(&self->device, &area, 1));
	EXPECT_EQ(0, cpu_wrong(&area, 1));
	EXPECT_EQ(0, cpu_wrong(&beside, 1));
}

/*
 * NUMA balancing
 */

#define BALANCING "/proc/sys/kernel/numa_balancing"

/* Scans follow the CPU time of a process: spend some. */
static void spin_ms(unsigned int ms)
{
	struct timespec now, end;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	end.tv_nsec += ms * 1000000L;
	end.tv_sec += end.tv_nsec / 1000000000L;
	end.tv_nsec %= 1000000000L;
	do {
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	} while (now.tv_sec < end.tv_sec ||
		 (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
}

static int run_on_cpu(unsigned int cpu)
{
	unsigned long mask = 1UL << cpu;

	return syscall(SYS_sched_setaffinity, 0, sizeof(mask), &mask) < 0 ?
	       -errno : 0;
}

/*
 * How many of the pages the CPU has no access to for the time being. Of those
 * that stay on the other node every single one is, once a scan has passed.
 */
static long hinted(struct mirror *m, const struct area *area)
{
	long count = 0;
	size_t i;

	for (i = 1; i < area->pages; i += 2)
		count += mirror_place(m, area_page(area, i)) ==
			 HMM_DMIRROR_PROT_NONE;
	return count;
}

/* What is the matter with balancing here, or NULL. */
static const char *balancing_begin(long *mode)
{
	*mode = race_read_number(BALANCING, NULL);
	if (*mode < 0)
		return "no CONFIG_NUMA_BALANCING";
	if (access("/sys/devices/system/node/node1", F_OK) || run_on_cpu(1))
		return "there is no second node with a CPU";
	return race_write_file(BALANCING, "1") ?
	       "balancing cannot be switched on" : NULL;
}

static void balancing_end(long mode)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", mode);
	race_write_file(BALANCING, text);
}

/*
 * Every second page is in the system, on node 0, and the process runs on node
 * 1: those pages tell that a scan has passed over the device's.
 */
static void wait_for_scan(struct __test_metadata *_metadata, struct mirror *m,
			  struct area *area)
{
	long updates = race_read_number("/proc/vmstat", "numa_pte_updates");
	unsigned int i;

	for (i = 0; i < 300 && hinted(m, area) < SOME / 2; i++)
		spin_ms(100);
	ASSERT_EQ(SOME / 2, hinted(m, area));
	ASSERT_LE(updates + SOME / 2,
		  race_read_number("/proc/vmstat", "numa_pte_updates"));
}

TEST_F(staying, numa_balancing_leaves_memory_writable)
{
	struct area *area = &self->area;
	const char *lack;
	long mode;
	size_t i;

	ASSERT_EQ(0, run_on_cpu(0));
	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	lack = balancing_begin(&mode);
	if (lack)
		SKIP(return, "%s", lack);
	for (i = 0; i < SOME; i += 2)
		ASSERT_EQ(1, to_device_part(&self->device, area, i, 1));
	wait_for_scan(_metadata, &self->device, area);
	for (i = 0; i < SOME; i += 2)
		EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_WRITE,
			  mirror_place(&self->device, area_page(area, i)));
	for (i = 0; i < SOME; i += 2)
		EXPECT_EQ(0, device_fill_part(&self->device, area, i, 1, 2));
	EXPECT_EQ(SOME / 2, held(&self->device, area));

	/* What a scan has hinted at keeps its permission on the way. */
	ASSERT_EQ(SOME / 2, hinted(&self->device, area));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	for (i = 1; i < SOME; i += 2)
		EXPECT_EQ(mirror_local(&self->device) | HMM_DMIRROR_PROT_WRITE,
			  mirror_place(&self->device, area_page(area, i)));
	balancing_end(mode);
	check_written_in_place(_metadata, &self->device, area, 3);
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

/*
 * Faulting back: the CPU gets at memory wherever it is
 */

PROMISES(faulting_back)

/*
 * How many pages stay in the device if @touched of SOME are brought home by
 * whoever cannot use private memory; coherent memory is used in place.
 */
static long left_by(const struct mirror *m, long touched)
{
	return m->coherent ? SOME : SOME - touched;
}

TEST_F(faulting_back, cpu_read_brings_one_page_home)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong_part(area, 5, 1, 1));
	EXPECT_EQ(left_by(&self->device, 1), held(&self->device, area));
	EXPECT_EQ(self->device.coherent,
		  held_part(&self->device, area, 5, 1));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
}

TEST_F(faulting_back, device_sees_what_the_cpu_writes_next)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	area_fill_part(area, 5, 3, 2);
	EXPECT_EQ(left_by(&self->device, 3), held(&self->device, area));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 5, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 5, 3, 2));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 8, SOME - 8, 1));
}

TEST_F(faulting_back, system_calls_read_device_memory)
{
	struct area *area = &self->area;
	int pair[2];
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, pipe(pair));
	for (i = 0; i < SOME; i++) {
		ASSERT_EQ(PAGE, write(pair[1], area_page(area, i), PAGE));
		ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
		ASSERT_EQ(0, contents_wrong(area->buffer, i, 1, 1));
	}
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
}

TEST_F(faulting_back, system_calls_write_device_memory)
{
	struct area *area = &self->area;
	int pair[2];
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, pipe(pair));
	contents_fill(area->buffer, 0, SOME, 2);
	for (i = 0; i < SOME; i++) {
		ASSERT_EQ(PAGE, write(pair[1], area->buffer + i * PAGE, PAGE));
		ASSERT_EQ(PAGE, read(pair[0], area_page(area, i), PAGE));
	}
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* By way of /proc/PID/mem, as a debugger does it. */
TEST_F(faulting_back, another_process_gets_at_device_memory)
{
	struct area *area = &self->area;
	char path[32];
	int mem;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	snprintf(path, sizeof(path), "/proc/%d/mem", getpid());
	mem = open(path, O_RDWR);
	ASSERT_NE(-1, mem);
	ASSERT_EQ(SOME * PAGE, pread(mem, area->buffer, SOME * PAGE,
				     (uintptr_t)area->at));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));

	ASSERT_EQ(SOME, to_device(&self->device, area));
	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(SOME * PAGE, pwrite(mem, area->buffer, SOME * PAGE,
				      (uintptr_t)area->at));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(mem);
}

TEST_F(faulting_back, populating_brings_memory_home)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	if (madvise(area->at, SOME * PAGE, MADV_POPULATE_READ))
		SKIP(return, "no MADV_POPULATE_READ: %s", strerror(errno));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(faulting_back, locking_brings_memory_home)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(faulting_back, read_only_memory_comes_home_read_only)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 3), CPU_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 3), CPU_WRITE));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	area_fill(area, 2);
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
}

TEST_F(faulting_back, device_memory_can_be_discarded)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, madvise(area_page(area, 9), 9 * PAGE, MADV_DONTNEED));
	EXPECT_EQ(SOME - 9, held(&self->device, area));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 9, 9, 0));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 9, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 9, 9, 0));
	EXPECT_EQ(0, cpu_wrong_part(area, 18, SOME - 18, 1));
}

TEST_F(faulting_back, device_memory_can_be_unmapped)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, munmap(area->at, SOME * PAGE));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	ASSERT_EQ(area->at, mmap(area->at, SOME * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				 0));
	EXPECT_EQ(0, device_wrong(&self->device, area, 0));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_F(faulting_back, device_memory_can_be_moved)
{
	struct area to, *area = &self->area;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(to.at, mremap(area->at, SOME * PAGE, SOME * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to.at));
	EXPECT_EQ(SOME, held(&self->device, &to));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, device_wrong(&self->device, &to, 1));
	EXPECT_EQ(SOME, held(&self->device, &to));
	EXPECT_EQ(0, cpu_wrong(&to, 1));
}

TEST_F(faulting_back, reclaim_leaves_device_memory_alone)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	madvise(area->at, SOME * PAGE, MADV_COLD);
	madvise(area->at, SOME * PAGE, MADV_PAGEOUT);
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

#define FAULTERS	4

/* Threads that look at each page of an area at once, page after page. */
struct faulters {
	struct area *area;
	pthread_barrier_t barrier;
	atomic_long wrong;
};

static void *fault_on_every_page(void *data)
{
	struct faulters *f = data;
	size_t i;

	for (i = 0; i < f->area->pages; i++) {
		pthread_barrier_wait(&f->barrier);
		atomic_fetch_add(&f->wrong, cpu_wrong_part(f->area, i, 1, 1));
	}
	return NULL;
}

TEST_F(faulting_back, threads_fault_on_one_page_at_once)
{
	struct faulters f = { .area = &self->area };
	pthread_t thread[FAULTERS];
	unsigned int i;

	pthread_barrier_init(&f.barrier, NULL, FAULTERS);
	area_fill(f.area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, f.area));
	for (i = 0; i < FAULTERS; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL,
					    fault_on_every_page, &f));
	for (i = 0; i < FAULTERS; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, f.wrong);
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, f.area));
}

struct count {
	atomic_long *counter;
	atomic_bool *over;
	long own;
};

/* With pauses, in which the page has the time to get to the device. */
static void *count_up(void *data)
{
	struct count *count = data;

	while (!*count->over) {
		atomic_fetch_add(count->counter, 1);
		if (!(++count->own % 200))
			race_pause_ms(1);
	}
	return NULL;
}

TEST_F(faulting_back, counters_are_exact_while_their_memory_moves)
{
	struct area *area = &self->area;
	unsigned int i, tries = 0, moved = 0;
	struct count count[2];
	pthread_t thread[2];
	atomic_bool over = false;

	for (i = 0; i < 2; i++) {
		count[i] = (struct count) {
			.counter = (void *)area->at,
			.over = &over,
		};
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, count_up,
					    &count[i]));
	}
	while (moved < 30 && tries++ < 5000) {
		moved += !mirror_call_once(&self->device,
					   HMM_DMIRROR_MIGRATE_TO_DEV, area->at,
					   1, area->buffer);
		mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_SYS, area->at,
			    1, area->buffer);
	}
	over = true;
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(count[0].own + count[1].own, *(long *)area->at);
	EXPECT_EQ(30, moved);
}

/*
 * Files and shared memory
 */

FIXTURE(files)
{
	struct mirror device;
	struct mirror other;
	struct area area;	/* shared mapping of the file */
	int fd;
};

BOTH_KINDS(files);

FIXTURE_SETUP(files)
{
	const char *lack = open_devices(&self->device, variant->device,
					&self->other, variant->other);

	if (lack)
		SKIP(return, "%s", lack);
	self->fd = memfd_create("hmm-tests", 0);
	ASSERT_NE(-1, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&self->area, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->fd));
}

FIXTURE_TEARDOWN(files)
{
	mirror_close(&self->device);
	mirror_close(&self->other);
	close(self->fd);
}

/* How many pages of the file are wrong. */
static long file_wrong(int fd, struct area *area, uint64_t contents)
{
	if (pread(fd, area->buffer, area->pages * PAGE, 0) !=
	    (ssize_t)(area->pages * PAGE))
		return -errno;
	return contents_wrong(area->buffer, 0, area->pages, contents);
}

TEST_F(files, device_writes_reach_the_file)
{
	area_fill(&self->area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, &self->area, 1));
	ASSERT_EQ(0, device_fill(&self->device, &self->area, 2));
	EXPECT_EQ(0, file_wrong(self->fd, &self->area, 2));
	EXPECT_EQ(0, cpu_wrong(&self->area, 2));
}

TEST_F(files, device_fills_an_empty_file)
{
	EXPECT_EQ(0, device_wrong(&self->device, &self->area, 0));
	ASSERT_EQ(0, device_fill(&self->device, &self->area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, &self->area, 1));
}

TEST_F(files, writes_to_the_file_reach_the_device)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(SOME * PAGE, pwrite(self->fd, area->buffer, SOME * PAGE, 0));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
}

TEST_F(files, device_write_makes_the_file_dirty)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty") +
			smaps_pages(area->at, "Shared_Dirty"));
}

TEST_F(files, file_pages_never_become_private_device_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ask_to_device(&self->device, area, 0, SOME);
	ask_to_device(&self->device, area, 0, SOME);
	if (!self->device.coherent)
		EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, file_wrong(self->fd, area, 2));
}

TEST_F(files, holes_of_files_do_not_move)
{
	struct area *area = &self->area;

	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 0));
	EXPECT_EQ(0, file_wrong(self->fd, area, 0));
}

/* On a file system of its own, which goes with the last user of the file. */
static int open_huge_file(void)
{
	char dir[] = "/tmp/hmm-tests.XXXXXX";
	int fd = -1;

	if (!mkdtemp(dir))
		return -1;
	if (!mount("hmm-tests", dir, "tmpfs", 0, "huge=always")) {
		fd = open(dir, O_TMPFILE | O_RDWR, 0600);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	if (fd >= 0 && ftruncate(fd, HUGE_SIZE)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static bool file_is_huge(struct mirror *m, int fd)
{
	struct area area;

	if (area_map_file(&area, HUGE_PAGES, PROT_READ | PROT_WRITE, MAP_SHARED,
			  fd) || cpu_try(area.at, CPU_WRITE))
		return false;
	return mirror_place(m, area.at) & HMM_DMIRROR_PROT_PMD;
}

/* Their pages stay in any case, so there is nothing to split them for. */
TEST_F(files, large_pages_of_files_stay_whole)
{
	int fd = open_huge_file();
	size_t some = HUGE_PAGES - 1;
	struct area area;

	if (fd < 0 || !file_is_huge(&self->device, fd))
		SKIP(return, "no huge page of a file to be had");
	ASSERT_EQ(0, area_map_file(&area, HUGE_PAGES, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	/* all but the last are mapped one by one */
	ASSERT_EQ(0, mprotect(area_page(&area, some), PAGE, PROT_READ));
	area_fill_part(&area, 0, some, 1);
	ASSERT_FALSE(mirror_place(&self->device, area.at) &
		     HMM_DMIRROR_PROT_PMD);
	ask_to_device(&self->device, &area, 0, some);
	EXPECT_EQ(0, cpu_wrong_part(&area, 0, some, 1));
	EXPECT_TRUE(file_is_huge(&self->device, fd));
	close(fd);
}

TEST_F(files, private_copies_move_and_the_file_keeps_its_own)
{
	struct area copy;

	area_fill(&self->area, 1);
	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, self->fd));
	EXPECT_EQ(0, cpu_wrong(&copy, 1));
	area_fill_part(&copy, 0, 10, 2);
	ASSERT_EQ(10, to_device_part(&self->device, &copy, 0, 10));
	ask_to_device(&self->device, &copy, 0, SOME);
	if (!self->device.coherent)
		EXPECT_EQ(10, held(&self->device, &copy));
	EXPECT_EQ(0, device_wrong_part(&self->device, &copy, 0, 10, 2));
	EXPECT_EQ(0, device_wrong_part(&self->device, &copy, 10, SOME - 10, 1));
	ASSERT_EQ(0, device_fill(&self->device, &copy, 3));
	EXPECT_EQ(0, cpu_wrong(&copy, 3));
	EXPECT_EQ(0, cpu_wrong(&self->area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, &self->area, 1));
}

TEST_F(files, device_write_to_a_private_mapping_copies)
{
	struct area copy;

	area_fill(&self->area, 1);
	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, self->fd));
	EXPECT_EQ(0, device_wrong(&self->device, &copy, 1));
	ASSERT_EQ(0, device_fill(&self->device, &copy, 2));
	EXPECT_EQ(0, cpu_wrong(&copy, 2));
	EXPECT_EQ(0, device_wrong(&self->device, &self->area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, &self->area, 1));
}

TEST_F(files, read_only_file_takes_no_device_write)
{
	struct area shut;
	char path[32];
	int fd;

	area_fill(&self->area, 1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	fd = open(path, O_RDONLY);
	ASSERT_NE(-1, fd);
	ASSERT_EQ(0, area_map_file(&shut, SOME, PROT_READ, MAP_SHARED, fd));
	EXPECT_EQ(0, device_wrong(&self->device, &shut, 1));
	EXPECT_EQ(-EPERM, device_fill(&self->device, &shut, 2));
	EXPECT_EQ(0, file_wrong(self->fd, &self->area, 1));
	close(fd);
}

TEST_F(files, truncated_pages_are_out_of_reach)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, ftruncate(self->fd, 10 * PAGE));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 10, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, 10, 1, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(&self->device, area, 10, 1, 2));
	ASSERT_EQ(0, ftruncate(self->fd, SOME * PAGE));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 10, SOME - 10, 0));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 10, 1));
}

TEST_F(files, punched_holes_read_as_zeroes)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, fallocate(self->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       5 * PAGE, 5 * PAGE));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 5, 5, 0));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 5, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 10, SOME - 10, 1));
}

TEST_F(files, two_mappings_show_the_same_to_the_device)
{
	struct area twin;

	ASSERT_EQ(0, area_map_file(&twin, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->fd));
	ASSERT_EQ(0, device_fill(&self->device, &self->area, 1));
	EXPECT_EQ(0, device_wrong(&self->device, &twin, 1));
	ASSERT_EQ(0, device_fill(&self->device, &twin, 2));
	EXPECT_EQ(0, device_wrong(&self->device, &self->area, 2));
	EXPECT_EQ(0, cpu_wrong(&twin, 2));
}

/*
 * Pages of hugetlbfs: mirrored, but they do not move
 */

#define HUGETLB_NEEDED	4

FIXTURE(hugetlb)
{
	struct mirror device;
	struct mirror other;
	struct area area;	/* two huge pages */
};

BOTH_KINDS(hugetlb);

FIXTURE_SETUP(hugetlb)
{
	const char *lack = open_devices(&self->device, variant->device,
					&self->other, variant->other);

	if (lack)
		SKIP(return, "%s", lack);
	if (race_read_number("/proc/meminfo", "HugePages_Free") <
	    HUGETLB_NEEDED ||
	    race_read_number("/proc/meminfo", "Hugepagesize") !=
	    HUGE_SIZE >> 10)
		SKIP(return, "fewer than %d huge pages of 2 MiB are free",
		     HUGETLB_NEEDED);
	ASSERT_EQ(0, area_map_file(&self->area, 2 * HUGE_PAGES,
				   PROT_READ | PROT_WRITE, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_HUGETLB, -1));
}

FIXTURE_TEARDOWN(hugetlb)
{
	mirror_close(&self->device);
	mirror_close(&self->other);
}

TEST_F(hugetlb, device_and_cpu_see_the_same)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 500, 100, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 500, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 500, 100, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 600, 2 * HUGE_PAGES - 600, 1));
}

TEST_F(hugetlb, pages_are_seen_as_huge)
{
	struct area *area = &self->area;
	unsigned char *last = area_page(area, 2 * HUGE_PAGES - 1);

	EXPECT_EQ(HMM_DMIRROR_PROT_NONE, mirror_place(&self->device, area->at));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 0, 1, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_PMD | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(&self->device, area_page(area, 511)));
	EXPECT_EQ(HMM_DMIRROR_PROT_NONE, mirror_place(&self->device, last));
}

TEST_F(hugetlb, untouched_pages_read_as_zeroes)
{
	struct area *area = &self->area;

	EXPECT_EQ(0, device_wrong(&self->device, area, 0));
	ASSERT_EQ(0, device_fill(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(hugetlb, read_only_pages_take_no_device_write)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_fill_part(&self->device, area, 0, 1, 1));
	ASSERT_EQ(0, mprotect(area->at, area->pages * PAGE, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill_part(&self->device, area, 0, 1, 2));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

TEST_F(hugetlb, device_write_after_fork_copies)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		_exit(0);
	}
	ASSERT_EQ(0, device_fill_part(&self->device, area, 3, 1, 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 3, 1, 2));
}

TEST_F(hugetlb, pages_do_not_move)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	EXPECT_EQ(-EINVAL, mirror_call(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_DEV, area->at, 64,
				       area->buffer));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(hugetlb, unmapped_pages_are_out_of_reach)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, munmap(area_page(area, HUGE_PAGES), HUGE_SIZE));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, HUGE_PAGES, 1,
					     1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, HUGE_PAGES, 1));
}

/*
 * Several devices share the memory
 */

FIXTURE(several_devices)
{
	struct mirror device;
	struct mirror other;
	struct area area;
};

FIXTURE_VARIANT(several_devices)
{
	unsigned int device;
	unsigned int other;
};

FIXTURE_VARIANT_ADD(several_devices, both_private)
{
	.device = 0,
	.other = 1,
};

FIXTURE_VARIANT_ADD(several_devices, both_coherent)
{
	.device = 2,
	.other = 3,
};

FIXTURE_VARIANT_ADD(several_devices, private_and_coherent)
{
	.device = 0,
	.other = 2,
};

FIXTURE_VARIANT_ADD(several_devices, coherent_and_private)
{
	.device = 3,
	.other = 1,
};

FIXTURE_SETUP(several_devices)
{
	const char *lack = open_devices(&self->device, variant->device,
					&self->other, variant->other);

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, area_map(&self->area, SOME));
}

FIXTURE_TEARDOWN(several_devices)
{
	mirror_close(&self->device);
	mirror_close(&self->other);
}

TEST_F(several_devices, each_sees_what_the_other_wrote)
{
	struct area *area = &self->area;
	unsigned int turn;

	for (turn = 1; turn < 20; turn += 2) {
		ASSERT_EQ(0, device_fill(&self->device, area, turn));
		ASSERT_EQ(0, device_wrong(&self->other, area, turn));
		ASSERT_EQ(0, device_fill(&self->other, area, turn + 1));
		ASSERT_EQ(0, device_wrong(&self->device, area, turn + 1));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

TEST_F(several_devices, memory_of_the_other_is_seen_as_such)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, held(&self->other, area));
	EXPECT_EQ(!self->device.coherent ? HMM_DMIRROR_PROT_NONE :
		  HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(&self->other, area->at));
	EXPECT_EQ(SOME, held(&self->device, area));
}

TEST_F(several_devices, the_other_reads_device_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->other, area, 1));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(several_devices, the_other_writes_device_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, device_fill_part(&self->other, area, 10, 20, 2));
	EXPECT_EQ(left_by(&self->device, 20), held(&self->device, area));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 10, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 10, 20, 2));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 30, SOME - 30, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 10, 20, 2));
}

TEST_F(several_devices, memory_goes_from_one_to_the_other)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ask_to_device(&self->other, area, 0, SOME);
	EXPECT_EQ(SOME, held(&self->device, area) + held(&self->other, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	ASSERT_EQ(SOME, to_device(&self->other, area));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->other, area, 1));
	ASSERT_EQ(0, device_fill(&self->other, area, 2));
	EXPECT_EQ(SOME, held(&self->other, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(several_devices, each_has_a_part)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(30, to_device_part(&self->device, area, 0, 30));
	ASSERT_EQ(30, to_device_part(&self->other, area, 40, 30));
	EXPECT_EQ(30, held(&self->device, area));
	EXPECT_EQ(30, held(&self->other, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(30, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->other, area, 1));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 20, 30, 2));
	EXPECT_EQ(0, device_wrong_part(&self->other, area, 20, 30, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 20, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 20, 30, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 50, SOME - 50, 1));
}

TEST_F(several_devices, both_learn_that_memory_has_gone)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_wrong(&self->other, area, 1));
	ASSERT_EQ(0, madvise(area->at, SOME * PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, device_wrong(&self->device, area, 0));
	EXPECT_EQ(0, device_wrong(&self->other, area, 0));
	ASSERT_EQ(0, munmap(area->at, SOME * PAGE));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 0));
	EXPECT_EQ(-EFAULT, device_wrong(&self->other, area, 0));
}

TEST_F(several_devices, the_other_learns_that_memory_moved)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->other, area, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, device_wrong(&self->other, area, 2));
}

/*
 * Several processes share a device
 */

PROMISES(several_processes)

TEST_F(several_processes, each_has_its_own_at_one_address)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&own, area));
		ASSERT_TRUE(peer_tell(&child));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 3));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(several_processes, shared_memory_is_one)
{
	struct area shared;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, area_map_file(&shared, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, device_wrong(&own, &shared, 1));
		ASSERT_EQ(0, device_fill(&own, &shared, 2));
		_exit(0);
	}
	ASSERT_EQ(0, device_fill(&self->device, &shared, 1));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(&self->device, &shared, 2));
	EXPECT_EQ(0, cpu_wrong(&shared, 2));
}

TEST_F(several_processes, exit_of_one_takes_nothing_from_another)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&own, area));
		ASSERT_TRUE(peer_tell(&child));
		ASSERT_TRUE(peer_hear(&child));
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

/* Every request of a device, for tests that try each of them. */
static const unsigned long requests[] = {
	HMM_DMIRROR_READ,
	HMM_DMIRROR_WRITE,
	HMM_DMIRROR_MIGRATE_TO_DEV,
	HMM_DMIRROR_MIGRATE_TO_SYS,
	HMM_DMIRROR_SNAPSHOT,
	HMM_DMIRROR_EXCLUSIVE,
	HMM_DMIRROR_EXCLUSIVE_AT_ONCE,
	HMM_DMIRROR_READ_UNLOCKED,
	HMM_DMIRROR_WRITE_UNLOCKED,
};

/* How many requests are refused to this process, and with -EBADF. */
static unsigned int requests_refused(struct mirror *m, struct area *area)
{
	unsigned int refused = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(requests); i++)
		refused += mirror_call_once(m, requests[i], area->at,
					    area->pages, area->buffer) ==
			   -EBADF;
	return refused;
}

TEST_F(several_processes, inherited_file_serves_its_opener_alone)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		area_fill(area, 2);
		contents_fill(area->buffer, 0, SOME, 3);
		EXPECT_EQ(ARRAY_SIZE(requests),
			  requests_refused(&self->device, area));
		EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 3));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 4));
	EXPECT_EQ(0, cpu_wrong(area, 4));
}

/* The file is left to the heir of a process that has gone. */
static void opens_and_goes(struct __test_metadata *_metadata, unsigned int node,
			   struct area *area)
{
	struct mirror own;
	struct peer heir;

	ASSERT_EQ(0, mirror_open(&own, node));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&own, area));
	ASSERT_EQ(0, peer_fork(&heir));
	if (heir.pid)
		_exit(0);
	ASSERT_EQ(false, peer_hear(&heir));
	EXPECT_EQ(ARRAY_SIZE(requests), requests_refused(&own, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	mirror_close(&own);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(several_processes, inherited_file_outlives_its_opener)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		opens_and_goes(_metadata, variant->device, &self->area);
		peer_tell(&child);
		_exit(0);
	}
	EXPECT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* Room for one descriptor, aligned as a header. */
union passed_file {
	char space[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static int pass_file(int sock, int fd)
{
	union passed_file control = {};
	struct iovec byte = { .iov_base = "", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(sock, &message, 0) == 1 ? 0 : -1;
}

static int receive_file(int sock)
{
	union passed_file control;
	char data;
	struct iovec byte = { .iov_base = &data, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	struct cmsghdr *header;
	int fd = -1;

	if (recvmsg(sock, &message, 0) != 1)
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

TEST_F(several_processes, passed_file_serves_its_opener_alone)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror passed;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&passed, variant->device));
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&passed, area));
		ASSERT_EQ(0, pass_file(child.sock, passed.fd));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, device_wrong(&passed, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	passed = self->device;
	passed.fd = receive_file(child.sock);
	ASSERT_NE(-1, passed.fd);
	EXPECT_EQ(ARRAY_SIZE(requests), requests_refused(&passed, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	/* the opener has gone, and the file is still there */
	EXPECT_EQ(ARRAY_SIZE(requests), requests_refused(&passed, area));
	mirror_close(&passed);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

/*
 * Exclusive access, for a device's atomics
 */

PROMISES(exclusive)

/* All of it, or -errno; what the device read is in the buffer. */
static int take(struct mirror *m, struct area *area)
{
	return mirror_call(m, HMM_DMIRROR_EXCLUSIVE, area->at, area->pages,
			   area->buffer);
}

/* 0 if the device has none of it any more, -EPERM if it has. */
static int taken(struct mirror *m, struct area *area, size_t page, size_t pages)
{
	return mirror_call(m, HMM_DMIRROR_CHECK_EXCLUSIVE,
			   area_page(area, page), pages, NULL);
}

TEST_F(exclusive, device_has_what_the_cpu_wrote)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	ASSERT_EQ(0, take(&self->device, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, 0, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, SOME - 1, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(exclusive, cpu_access_ends_it_page_by_page)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	EXPECT_EQ(0, cpu_wrong_part(area, 4, 1, 1));
	EXPECT_EQ(0, taken(&self->device, area, 4, 1));
	area_fill_part(area, 6, 1, 2);
	EXPECT_EQ(0, taken(&self->device, area, 6, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, 3, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, 5, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, 7, 1));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 6, 1, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 6, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 7, SOME - 7, 1));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
}

TEST_F(exclusive, it_can_be_taken_again)
{
	struct area *area = &self->area;
	unsigned int turn;

	for (turn = 1; turn < 10; turn++) {
		area_fill(area, turn);
		ASSERT_EQ(0, take(&self->device, area));
		ASSERT_EQ(0, contents_wrong(area->buffer, 0, SOME, turn));
		ASSERT_EQ(0, take(&self->device, area));
		ASSERT_EQ(0, contents_wrong(area->buffer, 0, SOME, turn));
		ASSERT_EQ(-EPERM, taken(&self->device, area, 0, 1));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

TEST_F(exclusive, the_same_device_does_not_end_it_beside_it)
{
	struct area *area = &self->area;
	size_t page;

	area_fill(area, 1);
	for (page = 5; page < SOME; page += 7)
		ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_EXCLUSIVE,
					 area_page(area, page), 1,
					 area->buffer));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	for (page = 0; page < SOME; page++)
		EXPECT_EQ(page % 7 == 5 ? -EPERM : 0,
			  taken(&self->device, area, page, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(exclusive, another_device_takes_it_over)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, take(&self->other, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	EXPECT_EQ(-EPERM, taken(&self->other, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(exclusive, another_device_gets_at_it)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->other, area, 1));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
}

TEST_F(exclusive, holes_become_zeroes)
{
	ASSERT_EQ(0, take(&self->device, &self->area));
	EXPECT_EQ(0, contents_wrong(self->area.buffer, 0, SOME, 0));
	EXPECT_EQ(0, cpu_wrong(&self->area, 0));
}

TEST_F(exclusive, pages_of_huge_pages_can_be_had)
{
	struct area huge, part;
	const char *lack = map_huge(&huge, 1);

	if (lack)
		SKIP(return, "%s", lack);
	part = huge;
	part.at = area_page(&huge, 200);
	part.pages = SOME;
	ASSERT_EQ(0, take(&self->device, &part));
	EXPECT_EQ(0, contents_wrong(huge.buffer, 200, SOME, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, &huge, 200, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, &huge, 200 + SOME - 1, 1));
	EXPECT_EQ(0, taken(&self->device, &huge, 199, 1));
	EXPECT_EQ(0, cpu_wrong(&huge, 1));
}

TEST_F(exclusive, device_memory_comes_home_for_it)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, take(&self->device, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

TEST_F(exclusive, read_only_memory_cannot_be_had)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_NE(0, take(&self->device, area));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(exclusive, protection_holds_afterwards)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(exclusive, shared_memory_cannot_be_had)
{
	struct area shared;

	ASSERT_EQ(0, area_map_file(&shared, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1));
	area_fill(&shared, 1);
	EXPECT_NE(0, take(&self->device, &shared));
	EXPECT_EQ(0, cpu_wrong(&shared, 1));
	EXPECT_EQ(0, device_wrong(&self->device, &shared, 1));
}

TEST_F(exclusive, private_mapping_of_a_file_is_copied_for_it)
{
	int fd = memfd_create("hmm-tests", 0);
	struct area copy, file;

	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&file, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, fd));
	area_fill(&file, 1);
	EXPECT_EQ(0, cpu_wrong_part(&copy, 0, SOME / 2, 1));
	ASSERT_EQ(0, take(&self->device, &copy));
	EXPECT_EQ(0, contents_wrong(copy.buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, taken(&self->device, &copy, 0, 1));
	area_fill(&copy, 2);
	EXPECT_EQ(0, taken(&self->device, &copy, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(&file, 1));
	close(fd);
}

/* Others who move pages leave these alone, or tell the device. */
TEST_F(exclusive, compaction_and_reclaim_do_not_end_it_in_silence)
{
	struct area *area = &self->area;
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	race_write_file("/proc/sys/vm/compact_memory", "1");
	madvise(area->at, SOME * PAGE, MADV_COLD);
	madvise(area->at, SOME * PAGE, MADV_PAGEOUT);
	for (i = 0; i < SOME; i++) {
		unsigned char *at = area_page(area, i);

		if (taken(&self->device, area, i, 1) == -EPERM)
			EXPECT_EQ(0, pagemap_of(getpid(), at) &
				     PAGEMAP_PRESENT);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
}

TEST_F(exclusive, fork_gives_both_what_was_there)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		EXPECT_EQ(0, cpu_wrong(area, 1));
		area_fill(area, 2);
		ASSERT_TRUE(peer_tell(&child));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, device_fill(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_F(exclusive, it_ends_with_the_mapping)
{
	struct area to, *area = &self->area;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, madvise(area->at, PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, taken(&self->device, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 1, 0));
	ASSERT_EQ(to.at, mremap(area->at, SOME * PAGE, SOME * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to.at));
	EXPECT_EQ(0, taken(&self->device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong_part(&to, 1, SOME - 1, 1));
	ASSERT_EQ(0, take(&self->device, &to));
	ASSERT_EQ(0, munmap(to.at, SOME * PAGE));
	EXPECT_EQ(0, taken(&self->device, &to, 0, SOME));
}

TEST_F(exclusive, such_memory_can_move_afterwards)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, take(&self->device, area));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * The device has exclusive access to pages 0 to 7, and has lost it to pages 8 to
 * 15. They are in system memory, where huge pages are.
 */
TEST_F(exclusive, memory_is_collapsed_all_the_same)
{
	struct area area;

	if (!thp_allowed())
		SKIP(return, "transparent huge pages are off");
	map_collapsible(_metadata, NULL, &area);
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_EXCLUSIVE,
				 area_page(&area, 8), 8, area.buffer));
	ASSERT_EQ(0, protect(&area, 8, 8, PROT_READ));
	ASSERT_EQ(0, protect(&area, 8, 8, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_EXCLUSIVE, area.at,
				 8, area.buffer));
	EXPECT_EQ(-EPERM, taken(&self->device, &area, 7, 1));
	EXPECT_EQ(0, taken(&self->device, &area, 8, 8));
	EXPECT_EQ(HUGE_PAGES - 16, pagemap_count(&area, PAGEMAP_PRESENT));
	ASSERT_EQ(0, madvise(area.at, HUGE_SIZE, MADV_HUGEPAGE));
	EXPECT_TRUE(eventually(!madvise(area.at, HUGE_SIZE, MADV_COLLAPSE)));
	EXPECT_EQ(HUGE_PAGES, smaps_pages(area.at, "AnonHugePages"));
	EXPECT_EQ(0, taken(&self->device, &area, 0, 16));
	EXPECT_EQ(0, cpu_wrong(&area, 1));
}

TEST_F(exclusive, exit_ends_it)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		area_fill(area, 1);
		ASSERT_EQ(0, take(&own, area));
		ASSERT_EQ(-EPERM, taken(&own, area, 0, 1));
		_exit(0);
	}
	EXPECT_EQ(0, peer_end(&child));
}

/*
 * Pins: a pinned page does not move, a private one is never pinned
 */

PROMISES(pinning)

#define GUP_TEST	"/sys/kernel/debug/gup_test"

static int pin(int gup, const struct area *area, uint32_t flags)
{
	struct pin_longterm_test args = {
		.addr = (uintptr_t)area->at,
		.size = area->pages * PAGE,
		.flags = flags,
	};

	return ioctl(gup, PIN_LONGTERM_TEST_START, &args) ? -errno : 0;
}

/* How many of the pinned pages are wrong, for who has pinned them. */
static long pinned_wrong(int gup, struct area *area, uint64_t contents)
{
	uint64_t buffer = (uintptr_t)area->buffer;

	memset(area->buffer, 0x5a, area->pages * PAGE);
	if (ioctl(gup, PIN_LONGTERM_TEST_READ, &buffer))
		return -errno;
	return contents_wrong(area->buffer, 0, area->pages, contents);
}

static void check_pinned(struct __test_metadata *_metadata, struct mirror *m,
			 struct area *area, enum place place, uint32_t flags)
{
	int gup = open(GUP_TEST, O_RDWR);

	if (gup < 0)
		SKIP(return, "no " GUP_TEST);
	area_fill(area, 1);
	if (place == IN_DEVICE)
		ASSERT_EQ(SOME, to_device(m, area));
	ASSERT_EQ(0, pin(gup, area, flags));
	EXPECT_EQ(0, held(m, area));
	ask_to_device(m, area, 0, SOME);
	ask_to_device(m, area, 0, SOME);
	EXPECT_EQ(0, held(m, area));
	EXPECT_EQ(0, pinned_wrong(gup, area, 1));
	ASSERT_EQ(0, device_fill(m, area, 2));
	EXPECT_EQ(0, pinned_wrong(gup, area, 2));
	area_fill(area, 3);
	EXPECT_EQ(0, pinned_wrong(gup, area, 3));
	ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_STOP));
	EXPECT_EQ(SOME, to_device(m, area));
	EXPECT_EQ(0, device_wrong(m, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
	close(gup);
}

#define CHECK_PINNED(place, flags)					\
	check_pinned(_metadata, &self->device, &self->area, place, flags)

TEST_F(pinning, pinned_memory_stays)
{
	CHECK_PINNED(IN_SYSTEM, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

TEST_F(pinning, memory_pinned_fast_stays)
{
	CHECK_PINNED(IN_SYSTEM, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

TEST_F(pinning, long_pin_brings_device_memory_home)
{
	CHECK_PINNED(IN_DEVICE, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

TEST_F(pinning, long_fast_pin_brings_device_memory_home)
{
	CHECK_PINNED(IN_DEVICE, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

TEST_F(pinning, long_pin_to_read_brings_device_memory_home)
{
	CHECK_PINNED(IN_DEVICE, 0);
}

TEST_F(pinning, short_pin_brings_private_memory_home)
{
	struct area *area = &self->area;
	struct gup_test args = {
		.addr = (uintptr_t)area->at,
		.size = SOME * PAGE,
		.nr_pages_per_call = SOME,
		.gup_flags = 1,		/* FOLL_WRITE */
	};
	int gup = open(GUP_TEST, O_RDWR);

	if (gup < 0)
		SKIP(return, "no " GUP_TEST);
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, ioctl(gup, PIN_BASIC_TEST, &args));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(gup);
}

/* A pipe holds references, which are as good as pins here. */
TEST_F(pinning, memory_in_a_pipe_stays)
{
	struct area *area = &self->area;
	struct iovec page = { .iov_base = area->at, .iov_len = PAGE };
	int pair[2];

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, pipe(pair));
	ASSERT_EQ(PAGE, vmsplice(pair[1], &page, 1, 0));
	EXPECT_EQ(left_by(&self->device, 1), held(&self->device, area));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(left_by(&self->device, 1), held(&self->device, area));
	mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_SYS, area->at, SOME,
		    area->buffer);
	EXPECT_EQ(self->device.coherent,
		  held_part(&self->device, area, 0, 1));
	ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 1, 1));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* A disk of compressed memory. Return: its number, or -errno. */
static int disk_make(size_t size)
{
	char path[48], text[24];
	int nr = race_read_number("/sys/class/zram-control/hot_add", NULL);

	if (nr < 0)
		return -ENODEV;
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", nr);
	snprintf(text, sizeof(text), "%zu", size);
	return race_write_file(path, text) ? -errno : nr;
}

static void disk_end(int nr)
{
	char text[12];

	snprintf(text, sizeof(text), "%d", nr);
	race_write_file("/sys/class/zram-control/hot_remove", text);
}

TEST_F(pinning, direct_io_works_on_device_memory)
{
	struct area *area = &self->area;
	int nr = disk_make(SOME * PAGE), disk;
	char path[24];

	if (nr < 0)
		SKIP(return, "no zram: %s", strerror(-nr));
	snprintf(path, sizeof(path), "/dev/zram%d", nr);
	disk = open(path, O_RDWR | O_DIRECT);
	if (disk < 0) {
		disk_end(nr);
		SKIP(return, "no %s", path);
	}
	area_fill(area, 1);
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(SOME * PAGE, pwrite(disk, area->at, SOME * PAGE, 0));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));

	area_fill(area, 2);
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(SOME * PAGE, pread(disk, area->at, SOME * PAGE, 0));
	EXPECT_EQ(left_by(&self->device, SOME), held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(disk);
	disk_end(nr);
}

/*
 * Accounting: device memory counts as any other
 */

FIXTURE(accounting)
{
	struct mirror device;
	struct mirror other;
	struct area area;
	char group[160];	/* a control group of its own */
};

BOTH_KINDS(accounting);

FIXTURE_SETUP(accounting)
{
	const char *lack = open_devices(&self->device, variant->device,
					&self->other, variant->other);

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, area_map(&self->area, LARGE));
	madvise(self->area.at, LARGE * PAGE, MADV_NOHUGEPAGE);
}

FIXTURE_TEARDOWN(accounting)
{
	mirror_close(&self->device);
	mirror_close(&self->other);
	if (self->group[0])
		rmdir(self->group);
}

TEST_F(accounting, device_memory_is_resident)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(LARGE, to_device(&self->device, area));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Pss"));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Anonymous"));
	EXPECT_EQ(0, smaps_pages(area->at, "Swap"));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(0, madvise(area->at, LARGE * PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, smaps_pages(area->at, "Rss"));
}

/*
 * The counters of the process are kept by CPU and summed up now and then: they
 * may be off by some pages for each CPU.
 */
static bool rss_is(long expected)
{
	long slack = 64 * sysconf(_SC_NPROCESSORS_CONF);
	long rss = race_read_number("/proc/self/status", "RssAnon") / 4;

	return labs(rss - expected) <= slack;
}

TEST_F(accounting, process_counts_device_memory)
{
	struct area *area = &self->area;
	long before = race_read_number("/proc/self/status", "RssAnon") / 4;

	area_fill(area, 1);
	/* the buffer of the area is memory, too */
	memset(area->buffer, 1, LARGE * PAGE);
	ASSERT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(LARGE, to_device(&self->device, area));
	EXPECT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(LARGE, to_device(&self->device, area));
	ASSERT_EQ(0, munmap(area->at, LARGE * PAGE));
	EXPECT_TRUE(rss_is(before + LARGE));
}

TEST_F(accounting, process_counts_holes_that_move)
{
	struct area *area = &self->area;
	long before;

	memset(area->buffer, 1, LARGE * PAGE);
	before = race_read_number("/proc/self/status", "RssAnon") / 4;
	ASSERT_EQ(LARGE, to_device(&self->device, area));
	EXPECT_TRUE(rss_is(before + LARGE));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(0, madvise(area->at, LARGE * PAGE, MADV_DONTNEED));
	EXPECT_TRUE(rss_is(before));
}

static int group_write(const char *group, const char *file, const char *text)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return race_write_file(path, text);
}

static long group_read(const char *group, const char *file, const char *key)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return race_read_number(path, key);
}

/* Return: NULL, or why there is no control group. Its path goes to @group. */
static const char *group_make(char *group, size_t size)
{
	char line[256], root[128] = "";
	FILE *mounts = fopen("/proc/mounts", "r");

	while (mounts && !root[0] && fgets(line, sizeof(line), mounts))
		if (sscanf(line, "%*s %127s cgroup2 ", root) != 1 ||
		    !strstr(line, " cgroup2 "))
			root[0] = 0;
	if (mounts)
		fclose(mounts);
	if (!root[0])
		return "cgroup2 is not mounted";
	if (group_write(root, "cgroup.subtree_control", "+memory"))
		return "no memory controller in cgroup2";
	snprintf(group, size, "%s/hmm-tests-%d", root, getpid());
	if (!mkdir(group, 0755))
		return NULL;
	group[0] = 0;
	return "no control group can be made";
}

/* The child goes on within the group, and touches what is its own already. */
static int group_fork(struct peer *child, const char *group)
{
	char text[12];

	if (peer_fork(child))
		return -1;
	if (child->pid)
		return 0;
	snprintf(text, sizeof(text), "%d", getpid());
	return group_write(group, "cgroup.procs", text);
}

/* Charges are made in batches, and there are page tables and the like. */
static bool charge_is(const char *group, long expected)
{
	long slack = 128 + 64 * sysconf(_SC_NPROCESSORS_CONF);
	long charge = group_read(group, "memory.current", NULL) / (long)PAGE;

	return labs(charge - expected) <= slack;
}

/* In the child. What it moves is LARGE: much more than the slack. */
static void charge_child(struct __test_metadata *_metadata, const char *group,
			 unsigned int node, struct area *area)
{
	struct mirror own;
	long before;

	ASSERT_EQ(0, mirror_open(&own, node));
	memset(area->buffer, 1, LARGE * PAGE);
	before = group_read(group, "memory.current", NULL) / (long)PAGE;
	area_fill(area, 1);
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(LARGE, to_device(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(0, to_system(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(LARGE, to_device(&own, area));
	ASSERT_EQ(0, madvise(area->at, LARGE * PAGE, MADV_DONTNEED));
	EXPECT_TRUE(charge_is(group, before));
	/* holes become pages, and those are charged */
	ASSERT_EQ(LARGE, to_device(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	_exit(0);
}

TEST_F(accounting, group_is_charged_for_device_memory)
{
	const char *lack = group_make(self->group, sizeof(self->group));
	struct peer child;

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, group_fork(&child, self->group));
	if (!child.pid)
		charge_child(_metadata, self->group, variant->device,
			     &self->area);
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_TRUE(eventually(charge_is(self->group, 0)));
	EXPECT_EQ(0, rmdir(self->group));
}

/*
 * Device memory cannot be reclaimed, so a group that fills its limit with it
 * gets less than it asks for, or the OOM killer.
 */
TEST_F(accounting, limit_of_the_group_holds)
{
	const char *lack = group_make(self->group, sizeof(self->group));
	long limit = LARGE / 2 * PAGE;
	struct peer child;
	struct mirror own;
	char text[24];
	int status;

	if (lack)
		SKIP(return, "%s", lack);
	snprintf(text, sizeof(text), "%ld", limit);
	ASSERT_EQ(0, group_write(self->group, "memory.max", text));
	group_write(self->group, "memory.swap.max", "0");
	ASSERT_EQ(0, group_fork(&child, self->group));
	if (!child.pid) {
		if (mirror_open(&own, variant->device))
			_exit(1);
		ask_to_device(&own, &self->area, 0, LARGE);
		_exit(held(&own, &self->area) < LARGE ? 0 : 2);
	}
	status = peer_end(&child);
	EXPECT_TRUE(!status ||
		    (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
	EXPECT_LT(0, group_read(self->group, "memory.events", "max"));
	EXPECT_TRUE(group_read(self->group, "memory.peak", NULL) <= limit);
	EXPECT_TRUE(eventually(charge_is(self->group, 0)));
	EXPECT_EQ(0, rmdir(self->group));
}

/*
 * Userfaultfd: its user decides what comes into a range, and when it changes
 */

PROMISES(userfault)

/* Accesses that the user of userfaultfd would have to answer get SIGBUS. */
static int uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

static int uffd_register(int uffd, const struct area *area, uint64_t mode)
{
	struct uffdio_register args = {
		.range.start = (uintptr_t)area->at,
		.range.len = area->pages * PAGE,
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &args) ? -errno : 0;
}

static int uffd_protect(int uffd, const struct area *area, size_t page,
			size_t pages, uint64_t mode)
{
	struct uffdio_writeprotect args = {
		.range.start = (uintptr_t)area_page(area, page),
		.range.len = pages * PAGE,
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &args) ? -errno : 0;
}

/* Fill a missing page with its contents. */
static int uffd_fill(int uffd, struct area *area, size_t page,
		     uint64_t contents)
{
	struct uffdio_copy args = {
		.dst = (uintptr_t)area_page(area, page),
		.src = (uintptr_t)area->buffer,
		.len = PAGE,
	};

	contents_fill(area->buffer, page, 1, contents);
	return ioctl(uffd, UFFDIO_COPY, &args) ? -errno : 0;
}

TEST_F(userfault, missing_pages_do_not_move)
{
	struct area *area = &self->area;
	int uffd = uffd_open(UFFD_FEATURE_SIGBUS);
	size_t i;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, uffd_register(uffd, area, UFFDIO_REGISTER_MODE_MISSING));
	for (i = 0; i < SOME; i += 2)
		ASSERT_EQ(0, uffd_fill(uffd, area, i, 1));
	ask_to_device(&self->device, area, 0, SOME);
	ASSERT_TRUE(eventually((ask_to_device(&self->device, area, 0, SOME),
				held(&self->device, area) == SOME / 2)));
	for (i = 1; i < SOME; i += 2) {
		EXPECT_EQ(0, pagemap_of(getpid(), area_page(area, i)) &
			     (PAGEMAP_PRESENT | PAGEMAP_SWAP));
		EXPECT_EQ(SIGBUS, cpu_try(area_page(area, i), CPU_READ));
		ASSERT_EQ(0, uffd_fill(uffd, area, i, 1));
	}
	EXPECT_EQ(SOME / 2, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(uffd);
}

TEST_F(userfault, device_gets_an_error_for_missing_pages)
{
	struct area *area = &self->area;
	int uffd = uffd_open(UFFD_FEATURE_SIGBUS);

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, uffd_register(uffd, area, UFFDIO_REGISTER_MODE_MISSING));
	EXPECT_EQ(-EFAULT, device_wrong(&self->device, area, 0));
	EXPECT_EQ(-EFAULT, device_fill(&self->device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT));
	ASSERT_EQ(0, uffd_fill(uffd, area, 0, 2));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 1, 2));
	close(uffd);
}

/* Write protection of the pages 0 to SOME / 2. */
static int uffd_with_protection(struct area *area)
{
	int uffd = uffd_open(UFFD_FEATURE_SIGBUS |
			     UFFD_FEATURE_PAGEFAULT_FLAG_WP);

	if (uffd < 0)
		return -1;
	if (!uffd_register(uffd, area, UFFDIO_REGISTER_MODE_WP) &&
	    !uffd_protect(uffd, area, 0, SOME / 2, UFFDIO_WRITEPROTECT_MODE_WP))
		return uffd;
	fprintf(stderr, "userfaultfd is there, but does not protect: %s\n",
		strerror(errno));
	_exit(KSFT_FAIL);
}

static void check_protection(struct __test_metadata *_metadata,
			     struct mirror *m, struct area *area)
{
	EXPECT_EQ(SOME / 2, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(-EFAULT, device_fill_part(m, area, 0, 1, 2));
	EXPECT_EQ(-EFAULT, device_fill_part(m, area, SOME / 2 - 1, 1, 2));
	EXPECT_EQ(0, device_fill_part(m, area, SOME / 2, 1, 1));
	EXPECT_EQ(0, device_wrong(m, area, 1));
}

TEST_F(userfault, write_protection_survives_a_round_trip)
{
	struct area *area = &self->area;
	int uffd;

	area_fill(area, 1);
	uffd = uffd_with_protection(area);
	if (uffd < 0)
		SKIP(return, "no write protection by userfaultfd: %s",
		     strerror(errno));
	check_protection(_metadata, &self->device, area);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	check_protection(_metadata, &self->device, area);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(0, cpu_try(area_page(area, SOME - 1), CPU_WRITE));
	ASSERT_EQ(0, to_system(&self->device, area));
	check_protection(_metadata, &self->device, area);
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, uffd_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(uffd);
}

TEST_F(userfault, device_memory_can_be_write_protected)
{
	struct area *area = &self->area;
	int uffd;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	uffd = uffd_with_protection(area);
	if (uffd < 0)
		SKIP(return, "no write protection by userfaultfd: %s",
		     strerror(errno));
	EXPECT_EQ(SOME, held(&self->device, area));
	check_protection(_metadata, &self->device, area);
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, uffd_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(uffd);
}

/* Pages that were not protected are none of its business. */
TEST_F(userfault, device_memory_stays_writable_when_protection_ends)
{
	int writable = mirror_local(&self->device) | HMM_DMIRROR_PROT_WRITE;
	struct area *area = &self->area;
	int uffd;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	uffd = uffd_with_protection(area);
	if (uffd < 0)
		SKIP(return, "no write protection by userfaultfd: %s",
		     strerror(errno));
	ASSERT_EQ(0, uffd_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(writable, mirror_place(&self->device,
					 area_page(area, SOME / 2)));
	close(uffd);
	EXPECT_EQ(writable, mirror_place(&self->device,
					 area_page(area, SOME - 1)));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* Nobody waits to be told: the device's write is noted, and goes on. */
TEST_F(userfault, async_protection_is_resolved_on_the_device)
{
	struct area *area = &self->area;
	int uffd = uffd_open(UFFD_FEATURE_WP_ASYNC |
			     UFFD_FEATURE_WP_UNPOPULATED);

	if (uffd < 0)
		SKIP(return, "no UFFD_FEATURE_WP_ASYNC: %s", strerror(errno));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, uffd_register(uffd, area, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, uffd_protect(uffd, area, 0, SOME,
				  UFFDIO_WRITEPROTECT_MODE_WP));
	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 0, 10, 1));
	EXPECT_EQ(SOME - 10, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(SOME, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME - 10, pagemap_count(area, PAGEMAP_UFFD_WP));
	close(uffd);
}

TEST_F(userfault, protection_of_holes_is_kept)
{
	struct area *area = &self->area;
	int uffd = uffd_open(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_WP_UNPOPULATED);

	if (uffd < 0)
		SKIP(return, "no UFFD_FEATURE_WP_UNPOPULATED: %s",
		     strerror(errno));
	ASSERT_EQ(0, uffd_register(uffd, area, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, uffd_protect(uffd, area, 0, SOME,
				  UFFDIO_WRITEPROTECT_MODE_WP));
	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(-EFAULT, device_fill(&self->device, area, 1));
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 0));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	close(uffd);
}

#ifdef UFFDIO_POISON
TEST_F(userfault, poison_is_kept)
{
	struct area *area = &self->area;
	struct uffdio_poison args = {
		.range.start = (uintptr_t)area_page(area, 1),
		.range.len = PAGE,
	};
	int uffd = uffd_open(UFFD_FEATURE_POISON);

	if (uffd < 0)
		SKIP(return, "no UFFD_FEATURE_POISON: %s", strerror(errno));
	ASSERT_EQ(0, uffd_register(uffd, area, UFFDIO_REGISTER_MODE_MISSING));
	ASSERT_EQ(0, uffd_fill(uffd, area, 0, 1));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_POISON, &args));
	ASSERT_EQ(1, to_device_part(&self->device, area, 0, 1));
	ask_to_device(&self->device, area, 0, 2);
	EXPECT_EQ(0, held_part(&self->device, area, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(&self->device, area, 1, 1, 0));
	EXPECT_EQ(-EFAULT, device_fill_part(&self->device, area, 1, 1, 1));
	EXPECT_EQ(SIGBUS, cpu_try(area_page(area, 1), CPU_READ));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 1, 1));
	close(uffd);
}
#endif

/*
 * Marks of pages that survive a round trip
 */

PROMISES(page_marks)

static bool clear_marks(const char *what)
{
	return !race_write_file("/proc/self/clear_refs", what);
}

TEST_F(page_marks, soft_dirty_survives)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_TRUE(clear_marks("4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 10, 5, 2);
	ASSERT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, device_wrong_part(&self->device, area, 0, 10, 1));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 20, 2, 2);
	EXPECT_EQ(7, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

TEST_F(page_marks, soft_dirty_tells_of_device_writes)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_fill(&self->device, area, 1));
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_TRUE(clear_marks("4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 3, 4, 2));
	EXPECT_EQ(4, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

/* Even while the page stays there, so that who looks at pagemap misses none. */
TEST_F(page_marks, soft_dirty_tells_of_writes_to_device_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_TRUE(clear_marks("4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 3, 4, 2));
	EXPECT_EQ(4, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, cpu_wrong_part(area, 3, 4, 2));
	EXPECT_EQ(4, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 3, 8, 3);
	EXPECT_EQ(8, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

TEST_F(page_marks, referenced_survives)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, smaps_pages(area->at, "Referenced"));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Referenced"));
}

TEST_F(page_marks, dirty_survives)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
}

TEST_F(page_marks, right_to_write_survives)
{
	struct area *area = &self->area;
	unsigned char places[SOME];
	size_t i;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_SNAPSHOT, area->at,
				 SOME, places));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, places[i]);
}

TEST_F(page_marks, exclusive_ownership_survives)
{
	struct area *area = &self->area;
	uint64_t pfn;

	area_fill(area, 1);
	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_EXCLUSIVE));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_EXCLUSIVE));
	/* so a write protection that is lifted again leads to no copy */
	pfn = pagemap_of(getpid(), area->at) & PAGEMAP_PFN;
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ | PROT_WRITE));
	area_fill(area, 2);
	EXPECT_EQ(pfn, pagemap_of(getpid(), area->at) & PAGEMAP_PFN);
}

TEST_F(page_marks, lazily_freed_memory_comes_back_as_ordinary)
{
	struct area *area = &self->area;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	ASSERT_TRUE(eventually(!madvise(area->at, SOME * PAGE, MADV_FREE) &&
			       smaps_pages(area->at, "LazyFree") == SOME));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, smaps_pages(area->at, "LazyFree"));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(0, smaps_pages(area->at, "LazyFree"));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	madvise(area->at, SOME * PAGE, MADV_PAGEOUT);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * Swap
 */

FIXTURE(swapping)
{
	struct mirror device;
	struct mirror other;
	struct area area;
	bool swap_is_ours;
};

BOTH_KINDS(swapping);

FIXTURE_SETUP(swapping)
{
	const char *lack = open_devices(&self->device, variant->device,
					&self->other, variant->other);

	if (lack)
		SKIP(return, "%s", lack);
	ASSERT_EQ(0, area_map(&self->area, SOME));
	lack = race_swap_begin(&self->swap_is_ours);
	if (lack)
		SKIP(return, "%s", lack);
}

FIXTURE_TEARDOWN(swapping)
{
	mirror_close(&self->device);
	mirror_close(&self->other);
	race_swap_end(self->swap_is_ours);
}

/* Return: whether no page is mapped any more. */
static bool page_out(const struct area *area)
{
	return eventually(!madvise(area->at, area->pages * PAGE,
				   MADV_PAGEOUT) &&
			  !pagemap_count(area, PAGEMAP_PRESENT));
}

/* Return: how many pages are in swap; all, unless somebody holds them. */
static long swap_out(const struct area *area)
{
	page_out(area);
	return pagemap_count(area, PAGEMAP_SWAP);
}

TEST_F(swapping, device_reads_swapped_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(HMM_DMIRROR_PROT_NONE,
		  mirror_place(&self->device, area->at));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_NE(0, self->device.faults);
}

TEST_F(swapping, device_writes_swapped_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, device_fill_part(&self->device, area, 0, SOME / 2, 2));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, SOME / 2, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, SOME / 2, SOME / 2, 1));
}

/* Read in again, a page may be writable and clean: there is a copy in swap. */
TEST_F(swapping, device_write_to_a_clean_page_is_not_dropped)
{
	struct area *area = &self->area;
	unsigned int turn;

	area_fill(area, 1);
	for (turn = 2; turn < 6; turn++) {
		ASSERT_EQ(SOME, swap_out(area));
		ASSERT_EQ(0, cpu_wrong(area, turn - 1));
		ASSERT_EQ(0, device_fill(&self->device, area, turn));
		ASSERT_EQ(SOME, swap_out(area));
		ASSERT_EQ(0, device_wrong(&self->device, area, turn));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

/* Of a file, read in again for a read: writable, and clean. */
TEST_F(swapping, device_write_to_a_clean_page_of_a_file_is_not_dropped)
{
	int fd = memfd_create("hmm", MFD_CLOEXEC);
	struct area file;

	ASSERT_NE(-1, fd);
	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&file, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	area_fill(&file, 1);
	ASSERT_TRUE(page_out(&file));
	ASSERT_EQ(0, cpu_wrong(&file, 1));
	ASSERT_EQ(0, device_fill(&self->device, &file, 2));
	ASSERT_TRUE(page_out(&file));
	EXPECT_EQ(0, cpu_wrong(&file, 2));
	close(fd);
}

TEST_F(swapping, device_write_to_freed_memory_is_not_dropped)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(0, device_fill(&self->device, area, 1));
	ASSERT_EQ(0, madvise(area->at, SOME * PAGE, MADV_FREE));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(swapping, moving_swapped_memory_loses_nothing)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(swapping, memory_back_from_swap_moves)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, smaps_pages(area->at, "Swap"));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	ASSERT_EQ(0, to_system(&self->device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* Back for a read, a page has its copy in swap on, as long as others need it. */
TEST_F(swapping, memory_that_others_have_in_swap_moves_after_them)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		_exit(peer_hear(&child));
	ASSERT_EQ(0, cpu_wrong(area, 1));
	ask_to_device(&self->device, area, 0, SOME);
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(swapping, memory_back_from_the_device_is_swapped)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	ASSERT_EQ(0, to_system(&self->device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
}

TEST_F(swapping, lazily_freed_memory_is_not_dropped_after_a_round_trip)
{
	struct area *area = &self->area;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	ASSERT_TRUE(eventually(!madvise(area->at, SOME * PAGE, MADV_FREE) &&
			       smaps_pages(area->at, "LazyFree") == SOME));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The device may have written to it, though it is read-only afterwards. */
TEST_F(swapping, lazily_freed_memory_is_not_dropped_after_exclusive_access)
{
	struct area *area = &self->area;

	madvise(area->at, SOME * PAGE, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	ASSERT_TRUE(eventually(!madvise(area->at, SOME * PAGE, MADV_FREE) &&
			       smaps_pages(area->at, "LazyFree") == SOME));
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_READ));
	ASSERT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(swapping, swap_can_go_while_memory_is_in_the_device)
{
	struct area *area = &self->area;

	if (!self->swap_is_ours)
		SKIP(return, "the swap belongs to the system");
	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(SOME / 2, (device_wrong_part(&self->device, area, 0, SOME / 2,
					       1),
			     to_device_part(&self->device, area, 0, SOME / 2)));
	ASSERT_EQ(0, swapoff(RACE_SWAP_DEVICE));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * Leaving: processes, files and devices go, memory stays
 */

PROMISES(leaving)

/* As much as a coherent device has, and a bit more. */
#define MORE_THAN_A_DEVICE	(288UL << 20)

/* 32 MiB, once or again, which are on the device and then nowhere. */
static bool use_device_memory(struct mirror *m)
{
	size_t pages = (32UL << 20) / PAGE;
	struct area area;
	long there;

	if (area_map(&area, pages))
		return false;
	ask_to_device(m, &area, 0, pages);
	there = held(m, &area);
	munmap(area.at, pages * PAGE);
	munmap(area.buffer, pages * PAGE);
	return there == (long)pages;
}

/* Private device memory is RAM behind the scenes. */
TEST_F(leaving, ram_behind_device_memory_is_free_again)
{
	long before;
	int i;

	ASSERT_TRUE(use_device_memory(&self->device));
	before = race_read_number("/proc/meminfo", "MemFree");
	for (i = 0; i < 4; i++)
		ASSERT_TRUE(use_device_memory(&self->device));
	/* of the 128 MiB that may be gone, in KiB */
	EXPECT_GT(64L << 10,
		  before - race_read_number("/proc/meminfo", "MemFree"));
}

TEST_F(leaving, exit_gives_device_memory_back)
{
	struct area large;
	struct peer child;
	struct mirror own;
	unsigned int i;

	ASSERT_EQ(0, area_map(&large, LARGE));
	for (i = 0; i < MORE_THAN_A_DEVICE / (LARGE * PAGE); i++) {
		ASSERT_EQ(0, peer_fork(&child));
		if (!child.pid) {
			ASSERT_EQ(0, mirror_open(&own, variant->device));
			ASSERT_EQ(LARGE, to_device(&own, &large));
			_exit(0);
		}
		ASSERT_EQ(0, peer_end(&child));
	}
	area_fill(&large, 1);
	ASSERT_EQ(LARGE, to_device(&self->device, &large));
	EXPECT_EQ(0, cpu_wrong(&large, 1));
}

static void move_for_ever(struct mirror *m, struct area *area,
			  struct peer *parent)
{
	area_fill(area, 1);
	peer_tell(parent);
	for (;;) {
		ask_to_device(m, area, 0, area->pages);
		mirror_call(m, HMM_DMIRROR_MIGRATE_TO_SYS, area->at,
			    area->pages, area->buffer);
		take(m, area);
	}
}

TEST_F(leaving, killed_process_leaves_the_device_usable)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;
	unsigned int i;

	area_fill(area, 2);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, peer_fork(&child));
		if (!child.pid) {
			ASSERT_EQ(0, mirror_open(&own, variant->device));
			move_for_ever(&own, area, &child);
		}
		ASSERT_TRUE(peer_hear(&child));
		usleep(10000 * i);
		kill(child.pid, SIGKILL);
		EXPECT_EQ(SIGKILL, WTERMSIG(peer_end(&child)));
		ASSERT_EQ(SOME, to_device(&self->device, area));
		EXPECT_EQ(0, device_wrong(&self->device, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
	}
}

TEST_F(leaving, exec_leaves_the_device_usable)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&own, area));
		execlp("true", "true", NULL);
		_exit(127);
	}
	EXPECT_EQ(0, peer_end(&child));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(leaving, memory_outlives_the_file)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	mirror_close(&self->device);
	EXPECT_EQ(0, cpu_wrong_part(area, 0, SOME / 2, 1));
	ASSERT_EQ(0, mirror_open(&self->device, variant->device));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(leaving, one_of_two_files_goes)
{
	struct area *area = &self->area;
	struct mirror first;

	ASSERT_EQ(0, mirror_open(&first, variant->device));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&first, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	mirror_close(&first);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* Unplugs the device; what it is given as a range is of no matter. */
static int unplug(struct mirror *m, const struct area *area)
{
	return mirror_call(m, HMM_DMIRROR_RELEASE, area->at, area->pages,
			   area->buffer);
}

static void do_nothing(int number)
{
}

/* A page that does not come home is waited for, by who is able to give up. */
TEST_F(leaving, unplugging_can_be_interrupted)
{
	struct sigaction action = { .sa_handler = do_nothing };
	struct itimerval soon = { { 0, 100000 }, { 0, 100000 } }, never = {};
	struct area *area = &self->area;
	struct iovec page = { .iov_base = area->at, .iov_len = PAGE };
	int pair[2];

	if (!self->device.coherent)
		SKIP(return, "private memory has no users that keep it there");
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, pipe(pair));
	ASSERT_EQ(PAGE, vmsplice(pair[1], &page, 1, 0));
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	EXPECT_EQ(-EINTR, mirror_call_once(&self->device, HMM_DMIRROR_RELEASE,
					   area->at, SOME, area->buffer));
	setitimer(ITIMER_REAL, &never, NULL);
	EXPECT_EQ(1, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	/* and the device is as good as ever */
	ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, unplug(&self->device, area));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* A program with a timer that is faster than the command gets to its end. */
TEST_F(leaving, long_commands_are_not_ended_by_a_timer)
{
	static const unsigned long requests[] = {
		HMM_DMIRROR_WRITE, HMM_DMIRROR_READ, HMM_DMIRROR_READ_UNLOCKED,
		HMM_DMIRROR_SNAPSHOT, HMM_DMIRROR_MIGRATE_TO_DEV,
		HMM_DMIRROR_MIGRATE_TO_SYS, HMM_DMIRROR_CHECK_EXCLUSIVE,
	};
	struct sigaction action = { .sa_handler = do_nothing };
	struct itimerval often = { { 0, 1000 }, { 0, 1000 } }, never = {};
	struct area area;
	unsigned int i;
	int ret;

	ASSERT_EQ(0, area_map(&area, LONG_PAGES));
	area_fill(&area, 1);
	sigaction(SIGALRM, &action, NULL);
	for (i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
		unsigned int tries = TRIES;

		setitimer(ITIMER_REAL, &often, NULL);
		do {
			ret = mirror_call_once(&self->device, requests[i],
					       area.at, LONG_PAGES,
					       area.buffer);
		} while ((ret == -EBUSY || ret == -ENOENT) && --tries);
		setitimer(ITIMER_REAL, &never, NULL);
		EXPECT_EQ(0, ret) {
			TH_LOG("request %u", i);
		}
	}
}

TEST_F(leaving, unplugging_brings_memory_home)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, device_fill(&self->device, area, 2));
	ASSERT_EQ(0, unplug(&self->device, area));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));

	ASSERT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, device_wrong(&self->device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(leaving, unplugging_brings_everybodys_memory_home)
{
	struct area *area = &self->area;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_EQ(0, mirror_open(&own, variant->device));
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&own, area));
		ASSERT_TRUE(peer_tell(&child));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_TRUE(peer_hear(&child));
	ASSERT_EQ(0, unplug(&self->device, area));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(leaving, unplugging_one_device_leaves_the_other)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(30, to_device_part(&self->device, area, 0, 30));
	ASSERT_EQ(30, to_device_part(&self->other, area, 40, 30));
	ASSERT_EQ(0, unplug(&self->device, area));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(30, held(&self->other, area));
	EXPECT_EQ(0, device_wrong(&self->other, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * Exclusive access must not keep a page in a device that goes. It takes no
 * time; the alarm is there for a kernel that would wait for ever.
 */
TEST_F(leaving, exclusive_access_does_not_stop_unplugging)
{
	struct sigaction action = { .sa_handler = do_nothing };
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, take(&self->device, area));
	ASSERT_EQ(0, take(&self->other, area));
	sigaction(SIGALRM, &action, NULL);
	alarm(60);
	EXPECT_EQ(0, mirror_call_once(&self->device, HMM_DMIRROR_RELEASE,
				      area->at, SOME, area->buffer));
	EXPECT_EQ(0, mirror_call_once(&self->other, HMM_DMIRROR_RELEASE,
				      area->at, SOME, area->buffer));
	alarm(0);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* Read-only pages, and pages that a child has its part in. */
TEST_F(leaving, unplugging_keeps_protection_and_sharing)
{
	struct area *area = &self->area;
	struct peer child;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, mprotect(area->at, 10 * PAGE, PROT_READ));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
		area_fill_part(area, 10, SOME - 10, 2);
		EXPECT_EQ(0, cpu_wrong_part(area, 10, SOME - 10, 2));
		_exit(0);
	}
	ASSERT_EQ(SOME, held(&self->device, area));
	ASSERT_EQ(0, unplug(&self->device, area));
	EXPECT_EQ(0, held(&self->device, area));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill_part(&self->device, area, 0, 1, 3));
	EXPECT_EQ(0, device_fill_part(&self->device, area, 10, SOME - 10, 3));
	EXPECT_EQ(0, cpu_wrong_part(area, 10, SOME - 10, 3));
}

/* A user of the device who does not know that it is being unplugged. */
struct user {
	struct mirror m;
	struct area area;
	atomic_bool stop;
	atomic_long wrong, rounds, there;
};

static void *use_device(void *data)
{
	struct user *user = data;
	uint64_t contents = 1;

	area_fill(&user->area, contents);
	while (!user->stop) {
		ask_to_device(&user->m, &user->area, 0, user->area.pages);
		user->there += held(&user->m, &user->area) > 0;
		user->wrong += !!device_wrong(&user->m, &user->area, contents);
		user->wrong += !!device_fill(&user->m, &user->area, ++contents);
		user->wrong += !!cpu_wrong(&user->area, contents);
		user->rounds++;
	}
	return NULL;
}

TEST_F(leaving, device_is_unplugged_while_in_use)
{
	struct user user = { .area = self->area };
	pthread_t thread;
	unsigned int i;

	ASSERT_EQ(0, mirror_open(&user.m, variant->device));
	ASSERT_EQ(0, pthread_create(&thread, NULL, use_device, &user));
	for (i = 0; i < 20; i++) {
		long rounds = user.rounds;

		EXPECT_EQ(0, unplug(&self->device, &self->area));
		/* if the user hangs, the time limit ends it */
		while (user.rounds == rounds)
			race_pause_ms(TRY_AGAIN_MS);
	}
	user.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, user.wrong);
	EXPECT_NE(0, user.there);
	mirror_close(&user.m);
}

/*
 * Hostile input: an error, and nothing else
 */

PROMISES(hostile_input)

/* For those who look at the command itself */
static struct hmm_dmirror_cmd area_command(const struct area *area)
{
	return (struct hmm_dmirror_cmd) {
		.addr = (uintptr_t)area->at,
		.ptr = (uintptr_t)area->buffer,
		.npages = area->pages,
	};
}

/* What could be done is done, and the program is told how much that is. */
TEST_F(hostile_input, buffer_that_ends_early_is_used_so_far)
{
	struct area *area = &self->area;
	struct hmm_dmirror_cmd cmd = area_command(area);

	area_fill(area, 1);
	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(0, mprotect(area->buffer + 2 * PAGE, PAGE, PROT_NONE));
	EXPECT_EQ(-1, ioctl(self->device.fd, HMM_DMIRROR_WRITE, &cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(2, cmd.cpages);
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 2, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 2, SOME - 2, 1));
	EXPECT_EQ(-1, ioctl(self->device.fd, HMM_DMIRROR_READ, &cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(2, cmd.cpages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 2, 2));
}

#ifndef SYS_memfd_secret
#define SYS_memfd_secret	447
#endif

/* Return: 0, -ENOSYS if the kernel has none, or -errno. */
static int map_secret(void *at, size_t pages)
{
	int fd = syscall(SYS_memfd_secret, 0);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, pages * PAGE) ||
	    mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		ret = -errno;
	close(fd);
	return ret;
}

/* Pages for which a snapshot says that a device cannot access them. */
static long out_of_reach(struct mirror *m, const struct area *area, size_t page,
			 size_t pages)
{
	long count = 0;
	size_t i;

	for (i = page; i < page + pages; i++)
		count += mirror_place(m, area_page(area, i)) ==
			 HMM_DMIRROR_PROT_ERROR;
	return count;
}

/* The kernel itself has no mapping of such memory, and a device gets none. */
TEST_F(hostile_input, secret_memory_is_refused)
{
	struct mirror *m = &self->device;
	struct area *area = &self->area;
	int ret = map_secret(area->at, SOME);

	if (ret == -ENOSYS)
		SKIP(return, "no CONFIG_SECRETMEM");
	ASSERT_EQ(0, ret);
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, device_wrong(m, area, 1));
	EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_READ_UNLOCKED, area->at,
				       SOME, area->buffer));
	EXPECT_EQ(SOME, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EFAULT, device_fill(m, area, 2));
	ret = mirror_call(m, HMM_DMIRROR_MIGRATE_TO_DEV, area->at, SOME,
			  area->buffer);
	EXPECT_TRUE(ret == -EINVAL || ret == -EFAULT || ret == -ENOENT);
	EXPECT_EQ(0, held(m, area));
	/* as for all that is not anonymous */
	EXPECT_EQ(-EOPNOTSUPP, mirror_call(m, HMM_DMIRROR_EXCLUSIVE, area->at,
					   SOME, area->buffer));
	EXPECT_EQ(SOME, out_of_reach(m, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(hostile_input, secret_memory_beside_other_is_refused)
{
	const size_t half = SOME / 2, rest = SOME - half;
	struct mirror *m = &self->device;
	struct area *area = &self->area;
	int ret = map_secret(area_page(area, half), rest);

	if (ret == -ENOSYS)
		SKIP(return, "no CONFIG_SECRETMEM");
	ASSERT_EQ(0, ret);
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, device_wrong(m, area, 1));
	EXPECT_EQ(rest, contents_wrong(area->buffer + half * PAGE, half, rest,
				       1));
	EXPECT_EQ(-EFAULT, device_fill(m, area, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, half, rest, 1));
	ask_to_device(m, area, 0, SOME);
	EXPECT_EQ(0, held_part(m, area, half, rest));
	EXPECT_EQ(0, out_of_reach(m, area, 0, half));
	EXPECT_EQ(rest, out_of_reach(m, area, half, rest));
	EXPECT_EQ(0, cpu_wrong_part(area, half, rest, 1));

	ASSERT_EQ(0, device_fill_part(m, area, 0, half, 3));
	EXPECT_EQ(half, to_device_part(m, area, 0, half));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, half, 3));
}

TEST_F(hostile_input, node_is_for_root_alone)
{
	struct stat status;

	ASSERT_EQ(0, fstat(self->device.fd, &status));
	EXPECT_EQ(0, status.st_uid);
	EXPECT_EQ(0, status.st_mode & 0077);
}

static const struct {
	const char *name;
	uint64_t offset;	/* of the address from that of the area */
	uint64_t address;	/* or an address */
	uint64_t below;		/* or so many pages below zero */
	uint64_t pages;
} absurd_ranges[] = {
	{ "no multiple of a page", .offset = 1, .pages = 1 },
	{ "no multiple of a page", .offset = 4096 - 8, .pages = 1 },
	{ "no pages", .offset = 0, .pages = 0 },
	{ "a size that overflows", .pages = 1ULL << 52 },
	{ "a size that overflows to a page", .pages = (1ULL << 52) + 1 },
	{ "a size that overflows to some", .pages = (1ULL << 63) + SOME },
	{ "all ones", .address = ~0ULL, .pages = ~0ULL },
	{ "all pages", .pages = ~0ULL >> 12 },
	{ "more than an address space", .pages = 1ULL << 40 },
	{ "end at zero", .below = 1, .pages = 1 },
	{ "end behind zero", .below = 1, .pages = 2 },
	{ "behind user addresses", .address = 1ULL << 47, .pages = 1 },
	{ "no canonical address", .address = 1ULL << 60, .pages = 1 },
	{ "kernel address", .address = 0xffff888000000000ULL, .pages = 1 },
	{ "kernel text", .address = 0xffffffff81000000ULL, .pages = 1 },
};

/* Snapshots and checks may say that there is nothing; others have to fail. */
static bool answers_absurdity(struct mirror *m, unsigned long request,
			      const void *at, uint64_t pages, void *buffer)
{
	int ret = mirror_call_once(m, request, at, pages, buffer);

	if (ret)
		return true;
	return request == HMM_DMIRROR_SNAPSHOT &&
	       *(unsigned char *)buffer == HMM_DMIRROR_PROT_ERROR;
}

TEST_F(hostile_input, absurd_ranges_are_refused)
{
	struct area *area = &self->area;
	size_t i, j;

	area_fill(area, 1);
	for (i = 0; i < ARRAY_SIZE(absurd_ranges); i++) {
		unsigned char *at = area->at + absurd_ranges[i].offset;

		if (absurd_ranges[i].address)
			at = (void *)absurd_ranges[i].address;
		else if (absurd_ranges[i].below)
			at = (void *)-(absurd_ranges[i].below * PAGE);
		for (j = 0; j < ARRAY_SIZE(requests); j++)
			EXPECT_TRUE(answers_absurdity(&self->device,
						      requests[j], at,
						      absurd_ranges[i].pages,
						      area->buffer))
				TH_LOG("request %zu: %s", j,
				       absurd_ranges[i].name);
		mirror_call_once(&self->device, HMM_DMIRROR_CHECK_EXCLUSIVE, at,
				 absurd_ranges[i].pages, NULL);
	}
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(hostile_input, absurd_ranges_have_clear_errors)
{
	struct mirror *m = &self->device;
	struct area *area = &self->area;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(requests) - 1; i++) {
		EXPECT_EQ(-EINVAL, mirror_call_once(m, requests[i],
						    area->at + 1, 1,
						    area->buffer));
		EXPECT_EQ(-EINVAL, mirror_call_once(m, requests[i], area->at, 0,
						    area->buffer));
		EXPECT_EQ(-EINVAL, mirror_call_once(m, requests[i],
						    (void *)-PAGE, 2,
						    area->buffer));
		EXPECT_EQ(-EINVAL, mirror_call_once(m, requests[i], area->at,
						    (1ULL << 52) + 1,
						    area->buffer));
	}
}

/* Where the device puts what it reads, and from where it writes. */
TEST_F(hostile_input, bad_buffers_are_refused)
{
	struct mirror *m = &self->device;
	struct area shut, *area = &self->area;
	void *bad[4];
	size_t i, j;

	ASSERT_EQ(0, area_map_file(&shut, SOME, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1));
	bad[0] = NULL;
	bad[1] = (void *)0xffff888000000000ULL;
	bad[2] = (void *)-8ULL;
	bad[3] = shut.at;
	area_fill(area, 1);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_READ, area->at,
					       SOME, bad[i]));
		EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_WRITE, area->at,
					       SOME, bad[i]));
		EXPECT_EQ(-EFAULT, mirror_call(m, HMM_DMIRROR_SNAPSHOT,
					       area->at, SOME, bad[i]));
		for (j = 0; j < ARRAY_SIZE(requests); j++)
			mirror_call_once(m, requests[j], area->at, SOME,
					 bad[i]);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, device_wrong(m, area, 1));
}

TEST_F(hostile_input, read_only_buffer_takes_no_data)
{
	struct area shut, *area = &self->area;

	ASSERT_EQ(0, area_map(&shut, SOME));
	area_fill(&shut, 2);
	ASSERT_EQ(0, mprotect(shut.at, SOME * PAGE, PROT_READ));
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, mirror_call(&self->device, HMM_DMIRROR_READ,
				       area->at, SOME, shut.at));
	EXPECT_EQ(0, cpu_wrong(&shut, 2));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_WRITE, area->at,
				 SOME, shut.at));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_F(hostile_input, bad_commands_are_refused)
{
	void *bad[] = { NULL, (void *)-8ULL, (void *)0xffff888000000000ULL,
			(void *)0xffffffff81000000ULL, self->area.at - 8 };
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		for (j = 0; j < ARRAY_SIZE(requests) - 1; j++) {
			EXPECT_EQ(-1, ioctl(self->device.fd, requests[j],
					    bad[i]));
			EXPECT_EQ(EFAULT, errno);
		}
}

TEST_F(hostile_input, command_that_cannot_be_answered_is_an_error)
{
	struct area *area = &self->area, page;
	struct hmm_dmirror_cmd cmd = area_command(area);

	area_fill(area, 1);
	ASSERT_EQ(0, area_map(&page, 1));
	memcpy(page.at, &cmd, sizeof(cmd));
	ASSERT_EQ(0, mprotect(page.at, PAGE, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->device.fd, HMM_DMIRROR_READ, page.at));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
}

TEST_F(hostile_input, unknown_requests_are_refused)
{
	static const unsigned long unknown[] = {
		_IOWR('H', 0x0f, struct hmm_dmirror_cmd),
		_IOWR('H', 0xff, struct hmm_dmirror_cmd),
		_IOWR('X', 0x00, struct hmm_dmirror_cmd),
		_IO('H', 0x00), 0, ~0UL,
	};
	struct area *area = &self->area;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		ret = mirror_call_once(&self->device, unknown[i], area->at,
				       SOME, area->buffer);
		EXPECT_TRUE(ret == -ENOTTY || ret == -EINVAL);
	}
}

TEST_F(hostile_input, unknown_flags_are_refused)
{
	struct mirror *m = &self->device;
	struct area *area = &self->area;
	int ret = mirror_call_once(m, HMM_DMIRROR_FLAGS, area->at, 0, NULL);

	if (ret == -ENOTTY || ret == -EINVAL)
		SKIP(return, "the driver has no HMM_DMIRROR_FLAGS");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-EINVAL, mirror_call_once(m, HMM_DMIRROR_FLAGS, area->at, 2,
					    NULL));
	EXPECT_EQ(-EINVAL, mirror_call_once(m, HMM_DMIRROR_FLAGS, area->at, ~0ULL,
					    NULL));
	area_fill(area, 1);
	EXPECT_EQ(SOME, to_device(m, area));
}

/* Only the driver says how far it came. */
TEST_F(hostile_input, results_in_a_command_are_not_believed)
{
	struct area *area = &self->area;
	struct hmm_dmirror_cmd cmd = area_command(area);

	area_fill(area, 1);
	cmd.cpages = SOME / 2;
	cmd.faults = ~0ULL;
	ASSERT_EQ(0, ioctl(self->device.fd, HMM_DMIRROR_READ, &cmd));
	EXPECT_EQ(SOME, cmd.cpages);
	EXPECT_GE(SOME, cmd.faults);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
}

TEST_F(hostile_input, buffer_may_be_in_device_memory)
{
	struct area data, *area = &self->area;

	ASSERT_EQ(0, area_map(&data, SOME));
	area_fill(area, 1);
	area_fill(&data, 2);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(SOME, to_device(&self->device, &data));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_READ, area->at,
				 SOME, data.at));
	EXPECT_EQ(0, cpu_wrong(&data, 1));
	area_fill(&data, 3);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(SOME, to_device(&self->device, &data));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_WRITE, area->at,
				 SOME, data.at));
	EXPECT_EQ(0, device_wrong(&self->device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_F(hostile_input, buffer_may_be_the_range_itself)
{
	struct area *area = &self->area;
	size_t i;

	area_fill(area, 1);
	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		if (requests[i] == HMM_DMIRROR_SNAPSHOT)
			continue;
		mirror_call_once(&self->device, requests[i], area->at, SOME,
				 area->at);
		EXPECT_EQ(0, cpu_wrong(area, 1));
		ASSERT_EQ(SOME, to_device(&self->device, area));
		mirror_call_once(&self->device, requests[i], area->at, SOME,
				 area->at);
		EXPECT_EQ(0, cpu_wrong(area, 1));
	}
}

TEST_F(hostile_input, command_may_be_in_device_memory)
{
	struct area page, *area = &self->area;
	struct hmm_dmirror_cmd *cmd;
	size_t i;

	ASSERT_EQ(0, area_map(&page, 1));
	cmd = (void *)page.at;
	area_fill(area, 1);
	for (i = 0; i < ARRAY_SIZE(requests) - 1; i++) {
		memset(cmd, 0, sizeof(*cmd));
		cmd->addr = (uintptr_t)area->at;
		cmd->ptr = (uintptr_t)area->buffer;
		cmd->npages = 1;
		contents_fill(area->buffer, 0, 1, 1);
		ASSERT_EQ(1, to_device(&self->device, &page));
		EXPECT_EQ(0, ioctl(self->device.fd, requests[i], cmd));
	}
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(hostile_input, file_has_no_other_use)
{
	char byte = 0;

	EXPECT_EQ(-1, read(self->device.fd, &byte, 1));
	EXPECT_EQ(-1, write(self->device.fd, &byte, 1));
}

/* A driver may map memory of its own, which the device then finds like any. */
TEST_F(hostile_input, mappings_of_the_file_do_not_move)
{
	struct area *area = &self->area;
	unsigned char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED, self->device.fd, 0);

	if (at == MAP_FAILED)
		SKIP(return, "the device maps nothing");
	contents_fill(at, 0, 2, 1);
	EXPECT_NE(0, mirror_call(&self->device, HMM_DMIRROR_MIGRATE_TO_DEV, at,
				 2, area->buffer));
	EXPECT_EQ(0, mirror_holds(&self->device, at, 2));
	ASSERT_EQ(0, mirror_call(&self->device, HMM_DMIRROR_READ, at, 2,
				 area->buffer));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 2, 1));
	EXPECT_EQ(0, contents_wrong(at, 0, 2, 1));
	/* neither does one become larger than it was made, nor very large */
	EXPECT_EQ(MAP_FAILED, mremap(at, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 8UL << 20, PROT_READ, MAP_SHARED,
				   self->device.fd, 0));
}

TEST_F(hostile_input, a_process_may_have_many_files)
{
	struct area *area = &self->area;
	struct mirror many[40];
	size_t i;

	area_fill(area, 1);
	for (i = 0; i < ARRAY_SIZE(many); i++) {
		ASSERT_EQ(0, mirror_open(&many[i], variant->device + i % 2));
		ASSERT_EQ(0, device_wrong(&many[i], area, 1));
	}
	ASSERT_EQ(SOME, to_device(&many[0], area));
	for (i = 0; i < ARRAY_SIZE(many); i++) {
		ASSERT_EQ(0, device_fill(&many[i], area, i + 1));
		EXPECT_EQ(0, device_wrong(&many[(i + 7) % 40], area, i + 1));
	}
	for (i = 0; i < ARRAY_SIZE(many); i++)
		mirror_close(&many[i]);
	EXPECT_EQ(0, cpu_wrong(area, i));
}

#define CALLERS		4
#define CALLS		10

/* A thread with a part of the area, on a file that all of them share. */
struct caller {
	pthread_t thread;
	struct mirror m;
	struct area part;
	struct area whole;
	atomic_bool *over;
	uint64_t random;
	long wrong;
};

/* Its part changes by its own hand alone, wherever others move it. */
static void *call_on_a_part(void *data)
{
	struct caller *c = data;
	uint64_t contents;

	for (contents = 1; contents < 2 * CALLS; contents += 2) {
		area_fill(&c->part, contents);
		c->wrong += !!device_wrong(&c->m, &c->part, contents);
		ask_to_device(&c->m, &c->part, 0, c->part.pages);
		c->wrong += !!device_wrong(&c->m, &c->part, contents);
		c->wrong += !!device_fill(&c->m, &c->part, contents + 1);
		c->wrong += !!cpu_wrong(&c->part, contents + 1);
		take(&c->m, &c->part);
		c->wrong += !!device_wrong(&c->m, &c->part, contents + 1);
	}
	return NULL;
}

/* Requests that change no contents, all over the area. */
static void *call_at_random(void *data)
{
	static const unsigned long harmless[] = {
		HMM_DMIRROR_READ, HMM_DMIRROR_MIGRATE_TO_DEV,
		HMM_DMIRROR_MIGRATE_TO_SYS, HMM_DMIRROR_SNAPSHOT,
		HMM_DMIRROR_EXCLUSIVE, HMM_DMIRROR_CHECK_EXCLUSIVE,
		HMM_DMIRROR_RELEASE,
	};
	struct caller *c = data;
	size_t pages = c->whole.pages;

	while (!*c->over) {
		size_t page = race_below(&c->random, pages);
		size_t n = 1 + race_below(&c->random, pages - page);
		unsigned int i = race_below(&c->random, ARRAY_SIZE(harmless));

		mirror_call_once(&c->m, harmless[i],
				 area_page(&c->whole, page), n,
				 c->whole.buffer);
	}
	return NULL;
}

static void caller_init(struct caller *c, const struct mirror *m,
			const struct area *area, unsigned int nr,
			atomic_bool *over)
{
	size_t pages = area->pages / CALLERS;

	*c = (struct caller) {
		.m = *m,
		.whole = *area,
		.part = *area,
		.random = nr + 1,
		.over = over,
	};
	c->part.at = area_page(area, nr % CALLERS * pages);
	c->part.pages = pages;
	c->part.buffer = calloc(pages, PAGE);
	c->whole.buffer = calloc(area->pages, PAGE);
}

TEST_F(hostile_input, calls_on_one_file_may_overlap)
{
	struct caller callers[CALLERS + 2];
	atomic_bool over = false;
	unsigned int i;

	for (i = 0; i < CALLERS + 2; i++) {
		caller_init(&callers[i], &self->device, &self->area, i, &over);
		ASSERT_EQ(0, pthread_create(&callers[i].thread, NULL,
					    i < CALLERS ? call_on_a_part :
							  call_at_random,
					    &callers[i]));
	}
	for (i = 0; i < CALLERS; i++)
		pthread_join(callers[i].thread, NULL);
	over = true;
	for (; i < CALLERS + 2; i++)
		pthread_join(callers[i].thread, NULL);
	for (i = 0; i < CALLERS; i++)
		EXPECT_EQ(0, callers[i].wrong);
}

/*
 * A device whose memory is full, or that cannot allocate
 */

PROMISES(scarcity)

TEST_F(scarcity, full_device_is_no_trouble)
{
	size_t step = HUGE_PAGES, page, here = 0;
	struct area large;

	ASSERT_EQ(0, area_map(&large, MORE_THAN_A_DEVICE / PAGE));
	for (page = 0; page < large.pages; page += step) {
		area_fill_part(&large, page, 1, 1);
		ask_to_device(&self->device, &large, page, step);
		here += held_part(&self->device, &large, page, step);
	}
	EXPECT_LT(0, here);
	if (self->device.coherent)
		EXPECT_GT(large.pages, here);
	EXPECT_EQ(held(&self->device, &large), (long)here);
	for (page = 0; page < large.pages; page += step) {
		ASSERT_EQ(0, device_wrong_part(&self->device, &large, page, 1,
					       1));
		ASSERT_EQ(0, device_fill_part(&self->device, &large, page + 1,
					      1, 2));
		ASSERT_EQ(0, cpu_wrong_part(&large, page, 1, 1));
		ASSERT_EQ(0, cpu_wrong_part(&large, page + 1, 1, 2));
		ASSERT_EQ(0, cpu_wrong_part(&large, page + 2, 2, 0));
	}
	ASSERT_EQ(0, munmap(large.at, large.pages * PAGE));
	area_fill(&self->area, 3);
	EXPECT_EQ(SOME, to_device(&self->device, &self->area));
	EXPECT_EQ(0, cpu_wrong(&self->area, 3));
}

/* The next allocation of a migration of this file fails. */
static int fail_next(struct mirror *m, const struct area *area)
{
	return mirror_call_once(m, HMM_DMIRROR_FLAGS, area->at, HMM_DMIRROR_FLAG_FAIL_ALLOC,
				NULL);
}

#define FAIL_NEXT_OR_SKIP()						\
do {									\
	int ret = fail_next(&self->device, &self->area);		\
									\
	if (ret)							\
		SKIP(return, "the driver has no HMM_DMIRROR_FLAGS (%s)",	\
		     strerror(-ret));					\
} while (0)

TEST_F(scarcity, failed_allocation_keeps_memory_in_the_system)
{
	struct area *area = &self->area;
	long there;

	area_fill(area, 1);
	FAIL_NEXT_OR_SKIP();
	EXPECT_EQ(-ENOMEM, mirror_call(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_DEV, area->at, 1,
				       area->buffer));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	ASSERT_EQ(0, fail_next(&self->device, area));
	ask_to_device(&self->device, area, 0, SOME);
	there = held(&self->device, area);
	EXPECT_GT(SOME, there);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(there, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_F(scarcity, failed_allocation_leaves_holes)
{
	struct area *area = &self->area;

	FAIL_NEXT_OR_SKIP();
	ask_to_device(&self->device, area, 0, 1);
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT | PAGEMAP_SWAP));
	EXPECT_EQ(SOME, to_device(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_F(scarcity, failed_allocation_keeps_memory_in_the_device)
{
	struct area *area = &self->area;
	long there;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	FAIL_NEXT_OR_SKIP();
	EXPECT_EQ(-ENOMEM, mirror_call(&self->device,
				       HMM_DMIRROR_MIGRATE_TO_SYS, area->at,
				       SOME, area->buffer));
	there = held(&self->device, area);
	EXPECT_LT(0, there);
	EXPECT_EQ(0, device_wrong(&self->device, area, 1));
	EXPECT_EQ(there, held(&self->device, area));
	ASSERT_EQ(0, to_system(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The CPU's access fails, or the kernel tries again; the next one works. */
#define FAIL_PAGES "/sys/kernel/debug/fail_page_alloc/"

/* The @nth allocation of an access by the CPU fails. Return: whether it did. */
static bool fail_in_access(int nth_fd, char *at, unsigned int nth, int *signal)
{
	char left = 0, text[16];
	int length = snprintf(text, sizeof(text), "%u", nth);

	if (pwrite(nth_fd, text, length, 0) != length)
		return false;
	*signal = cpu_try(at, CPU_READ);
	if (pread(nth_fd, &left, 1, 0) != 1 || pwrite(nth_fd, "0", 1, 0) != 1)
		return false;
	return left == '0';
}

/* By the kernel's own fault injection: the driver knows of commands only. */
TEST_F(scarcity, failed_allocation_loses_nothing_that_the_cpu_faults_on)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR), signal;
	struct area *area = &self->area;
	unsigned int i, failed = 0;

	if (fd < 0 || race_write_file(FAIL_PAGES "ignore-gfp-wait", "N"))
		SKIP(return, "the kernel has no fault injection");
	race_write_file(FAIL_PAGES "ignore-gfp-highmem", "N");
	race_write_file(FAIL_PAGES "min-order", "0");
	race_write_file(FAIL_PAGES "verbose", "0");
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	for (i = 0; i < SOME; i++) {
		failed += fail_in_access(fd, (char *)area_page(area, i),
					 1 + i % 8, &signal);
		EXPECT_TRUE(!signal || signal == SIGBUS);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	race_write_file(FAIL_PAGES "verbose", "2");
	race_write_file(FAIL_PAGES "min-order", "1");
	race_write_file(FAIL_PAGES "ignore-gfp-highmem", "Y");
	race_write_file(FAIL_PAGES "ignore-gfp-wait", "Y");
	close(fd);
	if (variant->device < 2)
		EXPECT_NE(0, failed);
}

TEST_F(scarcity, unplugging_goes_through_without_memory)
{
	struct area *area = &self->area;

	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&self->device, area));
	FAIL_NEXT_OR_SKIP();
	ASSERT_EQ(0, unplug(&self->device, area));
	EXPECT_EQ(0, held(&self->device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	/* the flag is gone, so an allocation has failed */
	EXPECT_NE(-ENOMEM, mirror_call_once(&self->device,
					    HMM_DMIRROR_MIGRATE_TO_DEV,
					    area->at, SOME, area->buffer));
}

/*
 * Reads that need no lock: they wait for whoever has to provide the memory
 */

PROMISES(unlocked)

static int read_unlocked(struct mirror *m, struct area *area, size_t pages)
{
	memset(area->buffer, 0x5a, pages * PAGE);
	return mirror_call(m, HMM_DMIRROR_READ_UNLOCKED, area->at, pages,
			   area->buffer);
}

#define UNLOCKED_OR_SKIP()						\
do {									\
	int ret = read_unlocked(&self->device, &self->area, 1);		\
									\
	if (ret == -ENOTTY || ret == -EINVAL)				\
		SKIP(return, "the driver has no HMM_DMIRROR_READ_UNLOCKED");	\
	ASSERT_EQ(0, ret);						\
} while (0)

TEST_F(unlocked, device_reads_what_the_cpu_wrote)
{
	struct area *area = &self->area;

	UNLOCKED_OR_SKIP();
	area_fill(area, 1);
	ASSERT_EQ(0, read_unlocked(&self->device, area, SOME));
	EXPECT_EQ(SOME, self->device.pages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	ASSERT_EQ(SOME, to_device(&self->device, area));
	ASSERT_EQ(0, read_unlocked(&self->device, area, SOME));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME, held(&self->device, area));
}

TEST_F(unlocked, memory_without_access_is_refused)
{
	struct area *area = &self->area;

	UNLOCKED_OR_SKIP();
	ASSERT_EQ(0, mprotect(area->at, SOME * PAGE, PROT_NONE));
	EXPECT_EQ(-EFAULT, read_unlocked(&self->device, area, SOME));
	ASSERT_EQ(0, munmap(area->at, SOME * PAGE));
	EXPECT_EQ(-EFAULT, read_unlocked(&self->device, area, SOME));
}

/* Provides the pages that somebody waits for. */
struct provider {
	struct area area;
	int uffd;
	unsigned int delay;		/* in ms, of the first page */
	long pages, errors;
};

static void *provide(void *data)
{
	struct provider *p = data;
	struct uffd_msg message;

	while (read(p->uffd, &message, sizeof(message)) == sizeof(message)) {
		uint64_t at = message.arg.pagefault.address;
		size_t page = (at - (uintptr_t)p->area.at) / PAGE;

		if (page >= p->area.pages)
			break;
		if (!p->pages++)
			race_pause_ms(p->delay);
		p->errors += !!uffd_fill(p->uffd, &p->area, page, 1);
	}
	return NULL;
}

/* With p->uffd open. Return: 0, or what is wrong. */
static int provider_start(struct provider *p, pthread_t *thread)
{
	int ret;

	fcntl(p->uffd, F_SETFL, 0);
	p->area.buffer = calloc(SOME, PAGE);
	if (!p->area.buffer)
		return -ENOMEM;
	ret = uffd_register(p->uffd, &p->area, UFFDIO_REGISTER_MODE_MISSING);
	return ret ? ret : -pthread_create(thread, NULL, provide, p);
}

static void provider_end(struct provider *p, pthread_t thread)
{
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	close(p->uffd);
	free(p->area.buffer);
}

TEST_F(unlocked, device_waits_for_missing_pages)
{
	struct area *area = &self->area;
	struct provider p = { .area = *area };
	pthread_t thread;

	UNLOCKED_OR_SKIP();
	ASSERT_EQ(0, madvise(area->at, SOME * PAGE, MADV_DONTNEED));
	p.uffd = uffd_open(0);
	if (p.uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, provider_start(&p, &thread));
	EXPECT_EQ(0, read_unlocked(&self->device, area, SOME));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME, p.pages);
	EXPECT_EQ(0, p.errors);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	provider_end(&p, thread);
}

/* The page behind takes longer than a driver waits, but it is not wanted yet. */
TEST_F(unlocked, pages_that_are_there_do_not_wait_for_others)
{
	struct area *area = &self->area;
	struct provider p = { .area = *area, .delay = 1500 };
	pthread_t thread;

	UNLOCKED_OR_SKIP();
	area_fill(area, 1);
	ASSERT_EQ(0, madvise(area_page(area, 1), (SOME - 1) * PAGE,
			     MADV_DONTNEED));
	p.uffd = uffd_open(0);
	if (p.uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, provider_start(&p, &thread));
	EXPECT_EQ(0, mirror_call_once(&self->device, HMM_DMIRROR_READ_UNLOCKED,
				      area->at, SOME, area->buffer));
	EXPECT_EQ(SOME, self->device.pages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME - 1, p.pages);
	EXPECT_EQ(0, p.errors);
	provider_end(&p, thread);
}

TEST_HARNESS_MAIN
