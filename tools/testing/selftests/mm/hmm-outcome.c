// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration to a device, and exclusive access, of memory that is swapped,
 * merged or reclaimed, and the charges of the memory controller.
 *
 * There are no races here. Each test is a process of its own: it sets up a
 * state, verifies the state by /proc/kpageflags or the like, and checks the
 * outcome. All tests run with both kinds of device memory.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "hmm_test_child.h"
#include "hmm_test_common.h"

#define PAGES		64
#define MANY		2048
#define CGROUP		"/sys/fs/cgroup/hmm-outcome"

/* Bits of /proc/kpageflags */
#define KPF_SWAPCACHE	13
#define KPF_MLOCKED	33
/* the type of a swap entry in pagemap */
#define PM_SWAP_TYPE	0x1fULL

/* The device of the test */
static struct mirror device;
static unsigned int device_nr;

static struct area map(size_t pages)
{
	struct area area;

	expect(!area_map(&area, pages), "no memory");
	area_advise(&area, MADV_NOHUGEPAGE);
	return area;
}

static struct area map_filled(size_t pages)
{
	struct area area = map(pages);

	area_fill(&area, 1);
	return area;
}

static struct area part_of(const struct area *area, size_t page, size_t pages)
{
	struct area part = *area;

	part.at = area_page(area, page);
	part.pages = pages;
	return part;
}

static void unmap(const struct area *area)
{
	munmap(area->at, area_size(area));
	munmap(area->buffer, area_size(area));
}

static void check_by_device(struct area *area)
{
	long wrong = device_wrong(&device, area, 1);

	expect(!wrong, "device read: %ld", wrong);
}

static void check_by_cpu(const struct area *area)
{
	long wrong = cpu_wrong(area, 1);

	expect(!wrong, "the CPU reads wrong data in %ld pages", wrong);
}

/* Try once. Return: the number of pages on the device. */
static long try_to_device(struct area *area)
{
	ask_to_device(&device, area, 0, area->pages);
	return held(&device, area);
}

static void all_to_system(struct area *area)
{
	expect(!to_system(&device, area), "pages are still on the device");
}

static uint64_t pfn_of(const void *at)
{
	return pagemap_entry(at) & PAGEMAP_PFN;
}

static bool pfn_has_flag(uint64_t pfn, unsigned int flag)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags = 0;

	expect(fd >= 0, "/proc/kpageflags: %s", strerror(errno));
	if (pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) !=
	    sizeof(flags))
		flags = 0;
	close(fd);
	return flags >> flag & 1;
}

static size_t count_in_swap_cache(const struct area *area)
{
	size_t found = 0;

	for (size_t i = 0; i < area->pages; i++) {
		uint64_t entry = pagemap_entry(area_page(area, i));

		found += entry & PAGEMAP_PRESENT &&
			 pfn_has_flag(entry & PAGEMAP_PFN, KPF_SWAPCACHE);
	}
	return found;
}

/* Entries of devices look like swap entries, of types above those of files. */
static size_t count_swapped(const struct area *area)
{
	size_t found = 0;

	for (size_t i = 0; i < area->pages; i++) {
		uint64_t entry = pagemap_entry(area_page(area, i));

		found += entry & PAGEMAP_SWAP && !(entry & PM_SWAP_TYPE);
	}
	return found;
}

static void page_out(const struct area *area)
{
	eventually((area_advise(area, MADV_PAGEOUT),
		    count_swapped(area) == area->pages));
	expect(count_swapped(area) == area->pages,
	       "%zu of %zu pages are swapped out", count_swapped(area),
	       area->pages);
}

/*
 * Swap
 */

/* A page that others need in swap stays; otherwise it leaves swap and moves. */
static void page_moves_once_its_swap_is_unused(void)
{
	struct area area = map_filled(PAGES);
	struct peer child;

	page_out(&area);
	expect(!peer_fork(&child), "fork: %s", strerror(errno));
	if (!child.pid)
		_exit(peer_hear(&child));
	check_by_cpu(&area);
	expect(count_in_swap_cache(&area) == PAGES,
	       "%zu pages are in the swap cache", count_in_swap_cache(&area));
	expect(!try_to_device(&area), "pages moved whose swap is in use");
	expect(count_in_swap_cache(&area) == PAGES,
	       "pages have left the swap cache");
	check_by_device(&area);
	check_by_cpu(&area);

	peer_end(&child);
	expect(count_in_swap_cache(&area) == PAGES,
	       "%zu pages are still in the swap cache",
	       count_in_swap_cache(&area));
	expect(to_device(&device, &area) == PAGES,
	       "pages stay whose swap is unused");
	check_by_device(&area);
	all_to_system(&area);
	expect(!count_in_swap_cache(&area), "pages returned with swap");
	check_by_cpu(&area);
}

static void child_finds_its_contents_in_swap(void)
{
	struct area area = map_filled(PAGES);
	struct peer child;

	page_out(&area);
	expect(!peer_fork(&child), "fork: %s", strerror(errno));
	if (!child.pid) {
		peer_hear(&child);
		check_by_cpu(&area);
		_exit(KSFT_PASS);
	}
	check_by_cpu(&area);
	try_to_device(&area);
	area_fill(&area, 2);
	peer_tell(&child);
	expect(!peer_end(&child), "the child does not find its contents");
}

static void swapped_page_does_not_move(void)
{
	struct area area = map_filled(PAGES);

	page_out(&area);
	expect(!try_to_device(&area), "swap was migrated");
	check_by_cpu(&area);
	expect(to_device(&device, &area) == PAGES, "pages do not move");
	check_by_cpu(&area);
}

/*
 * KSM
 */

/* Odd pages are alike. */
static unsigned char byte_of(size_t page)
{
	return page & 1 ? 0x77 : page + 1;
}

static void fill_alike(const struct area *area)
{
	for (size_t i = 0; i < area->pages; i++)
		memset(area_page(area, i), byte_of(i), PAGE);
}

static void check_alike(const struct area *area)
{
	for (size_t i = 0; i < area->pages; i++)
		expect(area_page(area, i)[i] == byte_of(i),
		       "page %zu has other contents", i);
}

/* Odd pages are mapped to one page. */
static bool is_merged(const struct area *area)
{
	uint64_t first = pagemap_entry(area_page(area, 1));

	if (!(first & PAGEMAP_PRESENT))
		return false;
	for (size_t i = 1; i < area->pages; i += 2)
		if ((pagemap_entry(area_page(area, i)) ^ first) &
		    (PAGEMAP_PRESENT | PAGEMAP_PFN))
			return false;
	return true;
}

static void merge_by_ksm(const struct area *area)
{
	expect(!area_advise(area, MADV_MERGEABLE), "MADV_MERGEABLE: %s",
	       strerror(errno));
	race_run_ksm("1");
	for (int i = 0; i < 600 && !is_merged(area); i++)
		usleep(20000);
	race_run_ksm("0");
	expect(is_merged(area), "KSM does not merge the pages");
}

/* Every second page is merged and stays; the others move. */
static void merged_page_does_not_move(void)
{
	struct area area = map(PAGES);

	fill_alike(&area);
	merge_by_ksm(&area);
	expect(eventually(try_to_device(&area) == PAGES / 2), "%ld pages moved",
	       held(&device, &area));
	expect(is_merged(&area), "pages are no longer merged");
	check_alike(&area);
	memset(area.at, 1, area_size(&area));
	expect(to_device(&device, &area) == PAGES,
	       "only %ld pages moved that are not merged",
	       held(&device, &area));
	/* unmerge all pages */
	race_run_ksm("2");
	race_run_ksm("0");
}

/*
 * The memory controller
 */

#define ROUNDS		8
/* the stock of the CPUs, and page tables */
#define SLACK		(512 * (long)PAGE)

struct charged {
	long anon;
	long current;
};

/* A read updates memory.stat only if enough has changed since the last one. */
#define CHURN	1024

static struct charged charged_now(void)
{
	struct area area = map_filled(CHURN);

	unmap(&area);
	return (struct charged) {
		race_read_number(CGROUP "/memory.stat", "anon"),
		race_read_number(CGROUP "/memory.current", NULL),
	};
}

/* Anonymous memory is counted exactly, and charged with some slack. */
static void check_charged(const char *when, struct charged before, long pages)
{
	struct charged now = charged_now();
	long bytes = pages * (long)PAGE;
	long extra = now.current - before.current - bytes;

	expect(now.anon - before.anon == bytes,
	       "%s: anonymous memory is %ld, not %ld", when,
	       now.anon - before.anon, bytes);
	expect(extra < SLACK && extra > -SLACK,
	       "%s: charged is %ld, not %ld", when,
	       now.current - before.current, bytes);
}

static void enter_cgroup(void)
{
	char pid[16];

	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		skip_child("no cgroup can be made: %s", strerror(errno));
	snprintf(pid, sizeof(pid), "%d", getpid());
	if (race_write_file(CGROUP "/cgroup.procs", pid) ||
	    charged_now().current < 0)
		skip_child("no memory controller");
}

static void set_limit(size_t pages)
{
	char bytes[24];

	snprintf(bytes, sizeof(bytes), "%zu", pages * PAGE);
	expect(!race_write_file(CGROUP "/memory.max", bytes),
	       "memory.max: %s", strerror(errno));
}

/* Heap and stack are charged, too. */
static void touch_heap_and_stack(void)
{
	unsigned char stack[65536], *heap = malloc(sizeof(stack));

	expect(heap, "no memory");
	explicit_bzero(heap, sizeof(stack));
	explicit_bzero(stack, sizeof(stack));
	free(heap);
}

/*
 * Map memory whose buffer is charged already, and run the code that the test
 * uses, so that only the area itself is charged afterwards.
 */
static struct area map_to_charge(size_t pages)
{
	struct area area = map(pages);

	touch_heap_and_stack();
	memset(area.buffer, 1, area_size(&area));
	try_to_device(&area);
	all_to_system(&area);
	area_advise(&area, MADV_DONTNEED);
	charged_now();
	return area;
}

static void moved_page_stays_charged(void)
{
	struct charged before;
	struct area area;

	enter_cgroup();
	area = map_to_charge(MANY);
	before = charged_now();
	for (int i = 0; i < ROUNDS; i++) {
		area_fill(&area, 1);
		check_charged("touched", before, MANY);
		expect(to_device(&device, &area) == MANY, "pages do not move");
		check_charged("on the device", before, MANY);
		expect(!to_system_part(&device, &area, 0, MANY / 2),
		       "pages are still on the device");
		check_charged("half of it back", before, MANY);
		check_by_cpu(&area);
		check_charged("all of it back", before, MANY);
		area_advise(&area, MADV_DONTNEED);
		check_charged("discarded", before, 0);
	}
}

static void populated_hole_is_charged(void)
{
	struct charged before;
	struct area area;

	enter_cgroup();
	area = map_to_charge(MANY);
	before = charged_now();
	for (int i = 0; i < ROUNDS; i++) {
		expect(to_device(&device, &area) == MANY, "holes do not move");
		check_charged("populated", before, MANY);
		area_advise_part(&area, 0, MANY / 2, MADV_DONTNEED);
		check_charged("half of it discarded", before, MANY / 2);
		all_to_system(&area);
		check_charged("the rest back", before, MANY / 2);
		area_advise(&area, MADV_DONTNEED);
		check_charged("discarded", before, 0);
	}
}

/*
 * A device with room for some pages only: all pages stay charged. For coherent
 * memory, because the dummy device adds private memory when it is full.
 */
static void page_without_room_stays_charged(void)
{
	size_t all = DEVICE_BYTES / PAGE, left = MANY / 4;
	struct area filler = map(all), area, holes;
	struct charged before;
	long moved;

	for (size_t i = 0; i < all - left; i += MANY)
		ask_to_device(&device, &filler, i,
			      i + MANY > all - left ? all - left - i : MANY);
	enter_cgroup();
	area = map_to_charge(MANY);
	holes = map_to_charge(MANY);
	before = charged_now();
	area_fill(&area, 1);
	moved = try_to_device(&area);
	expect(moved == (long)left,
	       "%ld pages moved where there was room for %zu", moved, left);
	check_charged("some on the device", before, MANY);
	check_by_cpu(&area);
	all_to_system(&area);
	check_charged("back", before, MANY);
	moved = try_to_device(&holes);
	expect(moved == (long)left,
	       "%ld holes were filled where there was room for %zu", moved,
	       left);
	check_charged("holes", before, MANY + moved);
	area_advise(&area, MADV_DONTNEED);
	area_advise(&holes, MADV_DONTNEED);
	check_charged("discarded", before, 0);
}

/*
 * Exclusive access
 */

static bool is_exclusive(const struct area *area, size_t page)
{
	return check_exclusive(&device, area, page, 1) == -EPERM;
}

static size_t count_exclusive(const struct area *area)
{
	size_t found = 0;

	for (size_t i = 0; i < area->pages; i++)
		found += is_exclusive(area, i);
	return found;
}

static void check_all_exclusive(const struct area *area, const char *when)
{
	size_t found = count_exclusive(area);

	expect(found == area->pages, "%s: %zu of %zu pages are exclusive", when,
	       found, area->pages);
}

/* Call the device, which has to read contents 1. */
static void take(struct area *area)
{
	int ret = make_exclusive(&device, area);

	expect(!ret, "exclusive access: %d", ret);
	expect(!contents_wrong(area->buffer, 0, area->pages, 1),
	       "the device reads wrong data");
	check_all_exclusive(area, "exclusive access");
}

/* Contents 2 are what the device writes, and the CPU never does. */
static void device_writes(struct area *area)
{
	int ret = device_fill(&device, area, 2);

	expect(!ret, "device write: %d", ret);
	check_all_exclusive(area, "device write");
}

static void check_device_writes(const struct area *area)
{
	long wrong = cpu_wrong(area, 2);

	expect(!wrong, "the device's writes to %ld pages are lost", wrong);
}

/* @how is "hard" or "soft". */
static void offline_page(const char *how, uint64_t pfn)
{
	char path[64], text[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/memory/%s_offline_page", how);
	snprintf(text, sizeof(text), "%#llx",
		 (unsigned long long)(pfn * PAGE));
	if (access(path, W_OK))
		skip_child("no %s", path);
	expect(!race_write_file(path, text), "%s: %s", path, strerror(errno));
}

/* The device loses pages that it has written, and they go to swap. */
static void exclusive_page_is_reclaimed(void)
{
	struct area area;

	enter_cgroup();
	area = map_filled(PAGES);
	take(&area);
	device_writes(&area);
	for (int i = 0; i < 50 && count_swapped(&area) < PAGES; i++)
		race_write_file(CGROUP "/memory.reclaim", "16M");
	expect(count_swapped(&area) == PAGES,
	       "only %zu of %d pages were swapped out", count_swapped(&area),
	       PAGES);
	expect(!count_exclusive(&area),
	       "the device still has pages that are swapped out");
	check_device_writes(&area);
	page_out(&area);
	check_device_writes(&area);
}

/* All of the memory is exclusive, and more than the limit. */
static void exclusive_pages_keep_the_limit(void)
{
	size_t chunk = MANY / 4, chunks = 16;
	struct area area;

	enter_cgroup();
	set_limit(3 * MANY);
	area = map(chunk * chunks);
	for (size_t i = 0; i < chunks; i++) {
		area_fill_part(&area, i * chunk, chunk, 1);
		expect(!make_exclusive_part(&device, &area, i * chunk, chunk),
		       "exclusive access to chunk %zu", i);
	}
	check_by_cpu(&area);
}

/*
 * Exit with 0 if the device got all pages, with 1 if it got fewer. The OOM
 * killer may kill this process.
 */
static void take_at_once(size_t pages)
{
	struct mirror m;
	struct area area;

	expect(!mirror_open(&m, device_nr), "no device");
	enter_cgroup();
	set_limit(MANY);
	area = map(pages);
	exit(mirror_call_once(&m, HMM_DMIRROR_EXCLUSIVE_AT_ONCE, area.at, pages,
			      NULL) || m.pages < pages);
}

/* Return: the status of the process, or -1 if it does not end. */
static int status_at_once(size_t pages)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	expect(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		take_at_once(pages);
	if (race_wait_child(pid, 120, &status))
		return status;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

/*
 * The pages are locked until the call returns. If they exceed the limit, the
 * call must end with fewer pages, or by the OOM killer.
 */
static void exclusive_call_ends_at_the_limit(void)
{
	int status = status_at_once(MANY / 2);

	expect(status >= 0 && WIFEXITED(status) && !WEXITSTATUS(status),
	       "status %#x for a range within the limit", status);
	expect(status_at_once(2 * MANY) > 0,
	       "the call does not end, or exceeds the limit");
}

/* A file gives up its own pages, and none of other files. */
static void close_ends_access_of_one_file(void)
{
	struct area area = map_filled(PAGES);
	struct area first = part_of(&area, 0, PAGES / 2);
	struct area half = part_of(&area, PAGES / 2, PAGES / 2);
	struct mirror second;

	expect(!mirror_open(&second, 0), "a second file of the device");
	expect(!make_exclusive(&second, &area), "exclusive access");
	expect(!make_exclusive(&device, &half), "exclusive access");
	mirror_close(&second);
	expect(pagemap_count(&first, PAGEMAP_PRESENT) == PAGES / 2,
	       "%ld of %d pages are present after close()",
	       pagemap_count(&first, PAGEMAP_PRESENT), PAGES / 2);
	expect(count_exclusive(&half) == PAGES / 2,
	       "close() took pages of another file");
	check_by_cpu(&area);
}

static void poisoned_exclusive_page_has_no_user(void)
{
	struct area area = map_filled(2);
	uint64_t pfn = pfn_of(area.at);

	take(&area);
	offline_page("hard", pfn);
	expect(!is_exclusive(&area, 0), "the device has a poisoned page");
	expect(device_wrong_part(&device, &area, 0, 1, 1) == -EFAULT,
	       "the device reads a poisoned page");
	expect(cpu_try(area.at, CPU_READ) == SIGBUS,
	       "the CPU reads a poisoned page");
	expect(!cpu_wrong_part(&area, 1, 1, 1), "the next page is lost");
}

static void exclusive_page_moves_by_soft_offline(void)
{
	struct area area = map_filled(PAGES);
	uint64_t pfn = pfn_of(area.at);

	take(&area);
	device_writes(&area);
	offline_page("soft", pfn);
	expect(!is_exclusive(&area, 0), "the device has a page that moved");
	expect(count_exclusive(&area) == PAGES - 1,
	       "other pages were taken from the device");
	check_device_writes(&area);
	expect(pfn_of(area.at) != pfn, "the page did not move");
}

static void smaps_counts_exclusive_pages(void)
{
	static const char *const fields[] = { "Rss", "Pss", "Private_Dirty" };
	struct area area = map_filled(PAGES);

	take(&area);
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		expect(smaps_pages(area.at, fields[i]) == PAGES, "%s: %ld pages",
		       fields[i], smaps_pages(area.at, fields[i]));
	expect(!smaps_pages(area.at, "Swap"), "Swap: %ld pages",
	       smaps_pages(area.at, "Swap"));
}

/* munlock() finds pages that are mapped but not present. */
static void exclusive_page_is_munlocked(void)
{
	struct area area = map_filled(PAGES);
	uint64_t pfn = pfn_of(area.at);

	expect(!mlock(area.at, area_size(&area)), "mlock: %s", strerror(errno));
	expect(pfn_has_flag(pfn, KPF_MLOCKED), "the page is not mlocked");
	take(&area);
	expect(pfn_has_flag(pfn, KPF_MLOCKED), "exclusive access ends mlock()");
	expect(!munlock(area.at, area_size(&area)), "munlock: %s",
	       strerror(errno));
	expect(!pfn_has_flag(pfn, KPF_MLOCKED),
	       "the page is mlocked after munlock()");
	check_all_exclusive(&area, "munlock()");
	check_by_cpu(&area);
}

static void swapped_page_becomes_exclusive(void)
{
	struct area area = map_filled(PAGES);

	page_out(&area);
	take(&area);
	check_by_cpu(&area);
}

/* After @area has moved to the addresses of @to. */
static void check_moved(const struct area *area, struct area *to)
{
	expect(!count_exclusive(area), "pages are exclusive where they were");
	check_by_cpu(to);
	take(to);
	check_by_cpu(to);
}

static void exclusive_page_moves_by_mremap(void)
{
	struct area area = map_filled(PAGES), to = map(PAGES);

	take(&area);
	expect(!area_move(&area, &to), "mremap: %s", strerror(errno));
	check_moved(&area, &to);
}

/* The pages move as if they were present. */
static void exclusive_page_moves_by_uffdio_move(void)
{
	struct area area = map_filled(PAGES), to = map(PAGES);
	struct uffdio_move move = {
		.dst = (uintptr_t)to.at,
		.src = (uintptr_t)area.at,
		.len = area_size(&area),
	};
	int uffd = userfault_open(UFFD_FEATURE_MOVE);

	if (uffd < 0)
		skip_child("no UFFDIO_MOVE: %s", strerror(errno));
	expect(!userfault_register(uffd, &to, UFFDIO_REGISTER_MODE_MISSING),
	       "UFFDIO_REGISTER: %s", strerror(errno));
	take(&area);
	expect(!ioctl(uffd, UFFDIO_MOVE, &move), "UFFDIO_MOVE: %s, moved %lld",
	       strerror(errno), (long long)move.move);
	close(uffd);
	check_moved(&area, &to);
}

/* The device loses the pages that compaction moves. */
static void exclusive_page_is_compacted(void)
{
	struct area area = map_filled(PAGES);

	take(&area);
	device_writes(&area);
	race_write_file("/proc/sys/vm/compact_memory", "1");
	for (size_t i = 0; i < PAGES; i++)
		expect(is_exclusive(&area, i) ==
		       !(pagemap_entry(area_page(&area, i)) & PAGEMAP_PRESENT),
		       "the device and the CPU have page %zu", i);
	check_device_writes(&area);
	area_fill(&area, 1);
	expect(to_device(&device, &area) == PAGES,
	       "pages do not move afterwards");
	take(&area);
	check_by_cpu(&area);
}

#define NEEDS_SWAP	1
#define ONLY_COHERENT	2

#define TEST(name, flags)	{ #name, name, flags }

static const struct outcome_test {
	const char *name;
	void (*body)(void);
	unsigned int flags;
} tests[] = {
	TEST(page_moves_once_its_swap_is_unused, NEEDS_SWAP),
	TEST(child_finds_its_contents_in_swap, NEEDS_SWAP),
	TEST(swapped_page_does_not_move, NEEDS_SWAP),
	TEST(merged_page_does_not_move, 0),
	TEST(moved_page_stays_charged, 0),
	TEST(populated_hole_is_charged, 0),
	TEST(page_without_room_stays_charged, ONLY_COHERENT),
	TEST(exclusive_page_is_reclaimed, NEEDS_SWAP),
	TEST(swapped_page_becomes_exclusive, NEEDS_SWAP),
	TEST(exclusive_page_moves_by_mremap, 0),
	TEST(exclusive_page_moves_by_uffdio_move, 0),
	TEST(exclusive_page_is_compacted, 0),
	TEST(exclusive_pages_keep_the_limit, NEEDS_SWAP),
	TEST(exclusive_call_ends_at_the_limit, NEEDS_SWAP),
	TEST(close_ends_access_of_one_file, 0),
	TEST(poisoned_exclusive_page_has_no_user, 0),
	TEST(exclusive_page_moves_by_soft_offline, 0),
	TEST(smaps_counts_exclusive_pages, 0),
	TEST(exclusive_page_is_munlocked, 0),
};

#define NR_TESTS	ARRAY_SIZE(tests)

static bool test_exists(const struct outcome_test *test, bool coherent)
{
	return coherent || !(test->flags & ONLY_COHERENT);
}

static const char *no_swap;

static void run(const void *data)
{
	const struct outcome_test *test = data;

	if (test->flags & NEEDS_SWAP)
		skip_child_for(no_swap);
	if (mirror_open(&device, device_nr))
		skip_child("no /dev/hmm_dmirror%u", device_nr);
	test->body();
}

static void run_all(bool coherent)
{
	char name[80];

	device_nr = coherent ? 2 : 0;
	for (size_t i = 0; i < NR_TESTS; i++) {
		if (!test_exists(&tests[i], coherent))
			continue;
		snprintf(name, sizeof(name), "%s.%s",
			 coherent ? "coherent" : "private", tests[i].name);
		child_report(child_run(run, &tests[i], 900), name);
		rmdir(CGROUP);
	}
}

static unsigned int count_tests(void)
{
	unsigned int nr = 0;

	for (size_t i = 0; i < NR_TESTS; i++)
		nr += test_exists(&tests[i], false) +
		      test_exists(&tests[i], true);
	return nr;
}

int main(void)
{
	bool our_swap;

	child_init();
	ksft_print_header();
	ksft_set_plan(count_tests());
	no_swap = race_swap_begin(&our_swap);
	run_all(false);
	run_all(true);
	race_swap_end(our_swap);
	ksft_finished();
}
