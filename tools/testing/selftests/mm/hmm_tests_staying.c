// SPDX-License-Identifier: GPL-2.0-only
/* Device memory stays on the device until it is needed elsewhere. */
#define _GNU_SOURCE
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(staying)

/* The device writes all of the memory without moving it. */
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

/* The same, and the CPU reads it afterwards. */
static void check_last_write(struct __test_metadata *_metadata,
			     struct mirror *m, struct area *area,
			     uint64_t contents)
{
	check_written_in_place(_metadata, m, area, contents);
	EXPECT_EQ(0, cpu_wrong(area, contents));
}

TEST_ON_DEVICE(staying, memory_stays_after_mprotect)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	check_written_in_place(_metadata, device, area, 2);
	ASSERT_EQ(0, area_protect_part(area, 10, 20, PROT_NONE));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	check_last_write(_metadata, device, area, 3);
}

TEST_ON_DEVICE(staying, memory_of_several_mappings_stays)
{
	size_t i;

	ASSERT_EQ(0, area_protect(area, PROT_READ));
	for (i = 0; i < SOME; i += 10)
		ASSERT_EQ(0, area_protect_part(area, i, 10, PROT_READ |
					       PROT_WRITE |
					       (i % 20 ? PROT_EXEC : 0)));
	check_last_write(_metadata, device, area, 2);
}

TEST_FILLED(staying, memory_migrated_read_only_stays)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(SOME, held(device, area));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	check_last_write(_metadata, device, area, 3);
}

TEST_ON_DEVICE(staying, memory_stays_after_mremap)
{
	struct area to;

	ASSERT_EQ(0, area_map(&to, SOME));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(0, area_move(area, &to));
	ASSERT_EQ(0, area_protect(&to, PROT_READ | PROT_WRITE));
	check_last_write(_metadata, device, &to, 2);
}

TEST_MIRROR(staying, private_copies_of_a_file_stay)
{
	int fd = memfd_create("hmm-tests", 0);
	struct area range;

	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&range, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, fd));
	area_fill(&range, 1);
	ASSERT_EQ(SOME, to_device(device, &range));
	ASSERT_EQ(0, area_protect(&range, PROT_READ));
	ASSERT_EQ(0, area_protect(&range, PROT_READ | PROT_WRITE));
	check_last_write(_metadata, device, &range, 2);
	close(fd);
}

TEST_ON_DEVICE(staying, memory_stays_after_the_child_exits)
{
	ASSERT_EQ(0, fork_and_exit());
	check_last_write(_metadata, device, area, 2);
}

TEST_FILLED(staying, memory_shared_before_it_moved_stays)
{
	ASSERT_EQ(0, fork_and_exit());
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(device, area->at));
	check_last_write(_metadata, device, area, 2);
}

/* The other program runs until the end of its input. */
TEST_ON_DEVICE(staying, memory_stays_after_the_child_executes)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		dup2(child.sock, STDIN_FILENO);
		dup2(child.sock, STDOUT_FILENO);
		execlp("sh", "sh", "-c", "echo; read end; exit 0", NULL);
		_exit(127);
	}
	ASSERT_TRUE(peer_hear(&child));
	check_last_write(_metadata, device, area, 2);
	EXPECT_EQ(0, peer_end(&child));
}

TEST_ON_DEVICE(staying, memory_stays_after_vfork)
{
	pid_t child;
	int status;

	child = vfork();
	if (!child) {
		execlp("true", "true", NULL);
		_exit(127);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	check_last_write(_metadata, device, area, 2);
}

/* The parent migrates, forks, and unmaps the memory. */
TEST_ON_DEVICE(staying, memory_stays_for_the_child_after_the_parent_unmaps)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		check_last_write(_metadata, &own, area, 2);
		_exit(!__test_passed(_metadata));
	}
	ASSERT_EQ(0, area_unmap(area));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(false, peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* The child discards every second page, so that the parent has it alone. */
TEST_ON_DEVICE(staying, only_shared_memory_is_copied)
{
	struct peer child;
	long kept = 0;
	size_t i;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		for (i = 0; i < SOME; i += 2)
			area_advise_part(area, i, 1, MADV_DONTNEED);
		peer_tell(&child);
		peer_hear(&child);
		for (i = 1; i < SOME; i += 2)
			EXPECT_EQ(0, cpu_wrong_part(area, i, 1, 1));
		_exit(!__test_passed(_metadata));
	}
	ASSERT_TRUE(peer_hear(&child));
	ASSERT_EQ(0, device_fill(device, area, 2));
	for (i = 0; i < SOME; i += 2)
		kept += held_part(device, area, i, 1);
	EXPECT_EQ(SOME / 2, kept);
	EXPECT_EQ(SOME / 2, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/**
 * struct reader - a thread that moves pages from the device by reading them
 * @area: the memory
 * @stop: end the thread
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
		for (i = area->pages; i--;)
			*(volatile unsigned char *)area_page(area, i);
	} while (!reader->stop);
	return NULL;
}

/* CPU faults hold the folio lock that the device needs. */
TEST_MIRROR(staying, device_writes_while_the_cpu_faults)
{
	struct reader reader = { .area = area };
	pthread_t thread;
	unsigned int i;

	for (i = 1; i <= 20; i++) {
		area_fill(area, 1);
		ASSERT_EQ(SOME, to_device(device, area));
		ASSERT_EQ(0, fork_and_exit());
		reader.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, read_backwards,
					    &reader));
		EXPECT_EQ(0, device_fill(device, area, i + 1));
		reader.stop = true;
		pthread_join(thread, NULL);
		EXPECT_EQ(0, device_wrong(device, area, i + 1));
		EXPECT_EQ(0, cpu_wrong(area, i + 1));
	}
}

/* Each mirror has its own page table, which follows changes of permissions. */
TEST_MIRROR(staying, memory_stays_for_two_mirrors_of_one_device)
{
	struct mirror second;

	ASSERT_EQ(0, mirror_open(&second, variant->device));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(0, device_wrong(&second, area, 1));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_wrong(&second, area, 1));
	check_written_in_place(_metadata, device, area, 2);
	EXPECT_EQ(0, device_wrong(&second, area, 2));
	check_written_in_place(_metadata, &second, area, 3);
	EXPECT_EQ(0, device_wrong(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
	mirror_close(&second);
}

TEST_FILLED(staying, soft_dirty_memory_stays)
{
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, race_write_file("/proc/self/clear_refs", "4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	check_written_in_place(_metadata, device, area, 2);
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* None of these calls needs the contents. */
TEST_ON_DEVICE(staying, memory_stays_when_advice_is_given)
{
	static const int advice[] = { MADV_COLD,       MADV_PAGEOUT,
				      MADV_WILLNEED,   MADV_NORMAL,
				      MADV_DONTFORK,   MADV_DOFORK,
				      MADV_NOHUGEPAGE, MADV_DONTDUMP };
	struct iovec range = { area->at, SOME * PAGE };
	unsigned char resident[SOME];
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	size_t i;

	for (i = 0; i < sizeof(advice) / sizeof(*advice); i++) {
		EXPECT_EQ(0, area_advise(area, advice[i]));
		EXPECT_EQ(SOME, held(device, area));
	}
	EXPECT_EQ(SOME * PAGE, syscall(SYS_process_madvise, pidfd, &range, 1,
				       MADV_PAGEOUT, 0));
	EXPECT_EQ(0, mincore(area->at, SOME * PAGE, resident));
	EXPECT_LE(0, smaps_pages(area->at, "Rss"));
	EXPECT_EQ(0, race_write_file("/proc/self/clear_refs", "1"));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	close(pidfd);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The kernel does not migrate device memory for a policy. */
TEST_ON_DEVICE(staying, memory_stays_when_policies_change)
{
	unsigned long nodes = 1;
	void *pages[SOME];
	int to[SOME] = {}, status[SOME];
	size_t i;

	if (syscall(SYS_mbind, area->at, SOME * PAGE, MPOL_BIND, &nodes,
		    8 * sizeof(nodes), MPOL_MF_MOVE))
		SKIP(return, "no mbind(): %s", strerror(errno));
	EXPECT_EQ(SOME, held(device, area));
	for (i = 0; i < SOME; i++)
		pages[i] = area_page(area, i);
	EXPECT_LE(0, syscall(SYS_move_pages, 0, SOME, pages, NULL, status, 0));
	syscall(SYS_move_pages, 0, SOME, pages, to, status, MPOL_MF_MOVE);
	syscall(SYS_migrate_pages, 0, 8 * sizeof(nodes), &nodes, &nodes);
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(staying, memory_is_not_collapsed)
{
	struct area range;

	SKIP_FOR(map_for_collapse(&range));
	ASSERT_EQ(8, to_device_part(device, &range, 0, 8));
	ASSERT_EQ(0, area_advise(&range, MADV_HUGEPAGE));
	EXPECT_NE(0, area_advise(&range, MADV_COLLAPSE));
	EXPECT_EQ(8, held(device, &range));
	EXPECT_EQ(0, smaps_pages(range.at, "AnonHugePages"));
	EXPECT_EQ(0, device_wrong(device, &range, 1));

	ASSERT_EQ(0, to_system(device, &range));
	EXPECT_TRUE(eventually(!area_advise(&range, MADV_COLLAPSE)));
	EXPECT_EQ(THP_PAGES, smaps_pages(range.at, "AnonHugePages"));
	EXPECT_EQ(0, cpu_wrong(&range, 1));
}

#define KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

/* Tries at intervals of 10 ms: khugepaged is slow in an emulator. */
#define KHUGEPAGED_TRIES	6000

/* Wait for the collapse of a range, and access its pages in the meantime. */
static bool khugepaged_collapses(struct area *area)
{
	unsigned int tries = KHUGEPAGED_TRIES;

	while (!smaps_pages(area->at, "AnonHugePages") && tries--) {
		race_pause_ms(TRY_AGAIN_MS);
		area_fill(area, 1);
	}
	return smaps_pages(area->at, "AnonHugePages");
}

/* Wait until it has completed a scan that began after the call. */
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

/* The collapse of another range shows that khugepaged works. */
TEST_MIRROR(staying, memory_is_not_collapsed_by_khugepaged)
{
	long sleep = race_read_number(KHUGEPAGED "scan_sleep_millisecs", NULL);
	struct area range, neighbour;

	SKIP_FOR(map_for_collapse(&range) ?: map_for_collapse(&neighbour));
	ASSERT_EQ(8, to_device_part(device, &range, 0, 8));
	ASSERT_EQ(0, area_advise(&range, MADV_HUGEPAGE));
	ASSERT_EQ(0, area_advise(&neighbour, MADV_HUGEPAGE));
	khugepaged_set_sleep(10);
	EXPECT_TRUE(khugepaged_collapses(&neighbour));
	EXPECT_TRUE(khugepaged_comes_round());
	khugepaged_set_sleep(sleep);
	EXPECT_EQ(8, held(device, &range));
	EXPECT_EQ(0, device_wrong(device, &range, 1));
	EXPECT_EQ(0, cpu_wrong(&range, 1));
	EXPECT_EQ(0, cpu_wrong(&neighbour, 1));
}

/*
 * NUMA balancing
 */

#define BALANCING	"/proc/sys/kernel/numa_balancing"

/* Scans depend on the CPU time of the process. */
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
		       -errno :
		       0;
}

/*
 * Return: the number of pages with a NUMA hint. After a scan, each page on the
 * other node has one.
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

/* Return: NULL, or the reason why NUMA balancing does not work here. */
static const char *balancing_begin(long *mode)
{
	*mode = race_read_number(BALANCING, NULL);
	if (*mode < 0)
		return "no CONFIG_NUMA_BALANCING";
	if (access("/sys/devices/system/node/node1", F_OK) || run_on_cpu(1))
		return "no second node with a CPU";
	return race_write_file(BALANCING, "1") ?
		       "cannot enable NUMA balancing" :
		       NULL;
}

static void balancing_end(long mode)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", mode);
	race_write_file(BALANCING, text);
}

/*
 * Every second page is in system memory on node 0, and the process runs on
 * node 1. Hints on these pages show that a scan has passed the device pages.
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

TEST_MIRROR(staying, numa_balancing_leaves_memory_writable)
{
	long mode;
	size_t i;

	ASSERT_EQ(0, run_on_cpu(0));
	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	SKIP_FOR(balancing_begin(&mode));
	for (i = 0; i < SOME; i += 2)
		ASSERT_EQ(1, to_device_part(device, area, i, 1));
	wait_for_scan(_metadata, device, area);
	for (i = 0; i < SOME; i += 2)
		EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_WRITE,
			  mirror_place(device, area_page(area, i)));
	for (i = 0; i < SOME; i += 2)
		EXPECT_EQ(0, device_fill_part(device, area, i, 1, 2));
	EXPECT_EQ(SOME / 2, held(device, area));

	/* A page with a NUMA hint keeps its permission when it migrates. */
	ASSERT_EQ(SOME / 2, hinted(device, area));
	ASSERT_EQ(SOME, to_device(device, area));
	for (i = 1; i < SOME; i += 2)
		EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_WRITE,
			  mirror_place(device, area_page(area, i)));
	balancing_end(mode);
	check_last_write(_metadata, device, area, 3);
}
