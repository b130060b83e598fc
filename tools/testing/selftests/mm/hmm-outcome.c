// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a migration to a device, or exclusive access of one, does to memory
 * that the rest of mm has its hands on: pages in the swap cache, pages merged
 * by KSM, pages that are to be reclaimed; and what the memory controller counts
 * for each outcome.
 *
 * Nothing races here. Each test is a process of its own, sets up one state,
 * makes sure of it by /proc/kpageflags or the like, and looks at the outcome.
 * All are done with both kinds of device memory.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "hmm_race_common.h"
#include "../kselftest.h"

#define PAGES		64
#define MANY		2048
#define CGROUP		"/sys/fs/cgroup/hmm-outcome"
#define KSM		"/sys/kernel/mm/ksm/"

/* Bits of /proc/kpageflags and /proc/self/pagemap. */
#define KPF_SWAPCACHE	13
#define KPF_MLOCKED	33
#define PM_SWAP_TYPE	0x1fULL
#define PM_SWAP		62
#define PM_PRESENT	63
#define PM_PFN		((1ULL << 55) - 1)

static struct {
	unsigned char place;	/* in a snapshot, of a page that moved */
	int fd;
	size_t page_size;
	void *buffer;		/* of MANY pages */
} device;

/* Status of a process that ran a test. */
enum { PASS, FAIL, SKIP };

#define expect(cond, ...) do {						\
	if (!(cond)) {							\
		ksft_print_msg("line %d: ", __LINE__);			\
		printf(__VA_ARGS__);					\
		printf("\n");						\
		fflush(stdout);						\
		exit(FAIL);						\
	}								\
} while (0)

static char *page_of(char *area, size_t i)
{
	return area + i * device.page_size;
}

static char *map(size_t pages)
{
	char *area = mmap(NULL, pages * device.page_size,
			  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	expect(area != MAP_FAILED, "no memory");
	madvise(area, pages * device.page_size, MADV_NOHUGEPAGE);
	return area;
}

static uint64_t word_of(size_t i)
{
	return race_mix(i + 1);
}

static void fill(char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		*(uint64_t *)page_of(area, i) = word_of(i);
}

static char *map_filled(size_t pages)
{
	char *area = map(pages);

	fill(area, pages);
	return area;
}

static void check_word(const char *who, size_t i, uint64_t word)
{
	expect(word == word_of(i), "%s reads %#llx in page %zu", who,
	       (unsigned long long)word, i);
}

static void check_by_device(char *area, size_t pages)
{
	expect(!race_device(device.fd, HMM_DMIRROR_READ, area, pages,
			    device.buffer),
	       "device read: %s", strerror(errno));
	for (size_t i = 0; i < pages; i++)
		check_word("the device", i,
			   *(uint64_t *)page_of(device.buffer, i));
}

static void check_by_cpu(char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		check_word("the CPU", i, *(uint64_t *)page_of(area, i));
}

static unsigned char seen[MANY];

static size_t on_device(char *area, size_t pages)
{
	expect(pages <= sizeof(seen), "too many pages");
	return race_count_pages(device.fd, area, pages, device.place, seen);
}

/* Return: how many of the pages are on the device then. */
static size_t to_device(char *area, size_t pages)
{
	race_device(device.fd, HMM_DMIRROR_MIGRATE_TO_DEV, area, pages,
		    device.buffer);
	return on_device(area, pages);
}

static void to_system(char *area, size_t pages)
{
	race_device(device.fd, HMM_DMIRROR_MIGRATE_TO_SYS, area, pages,
		    device.buffer);
	expect(!on_device(area, pages), "pages are still on the device");
}

static uint64_t read_word(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY);
	uint64_t word = 0;

	expect(fd >= 0, "%s: %s", path, strerror(errno));
	if (pread(fd, &word, sizeof(word), index * sizeof(word)) !=
	    sizeof(word))
		word = 0;
	close(fd);
	return word;
}

static uint64_t pagemap_entry(char *addr)
{
	return read_word("/proc/self/pagemap",
			 (uintptr_t)addr / device.page_size);
}

static bool page_has_flag(char *addr, unsigned int flag)
{
	uint64_t entry = pagemap_entry(addr);

	if (!(entry >> PM_PRESENT & 1))
		return false;
	return read_word("/proc/kpageflags", entry & PM_PFN) >> flag & 1;
}

static size_t count_flag(char *area, size_t pages, unsigned int flag)
{
	size_t found = 0;

	for (size_t i = 0; i < pages; i++)
		found += page_has_flag(page_of(area, i), flag);
	return found;
}

/* Entries of devices look like swap of a type behind those of swap files. */
static bool is_swapped(char *addr)
{
	uint64_t entry = pagemap_entry(addr);

	return entry >> PM_SWAP & 1 && !(entry & PM_SWAP_TYPE);
}

static size_t count_swapped(char *area, size_t pages)
{
	size_t found = 0;

	for (size_t i = 0; i < pages; i++)
		found += is_swapped(page_of(area, i));
	return found;
}

static void page_out(char *area, size_t pages)
{
	for (int i = 0; i < 50; i++) {
		madvise(area, pages * device.page_size, MADV_PAGEOUT);
		if (count_swapped(area, pages) == pages)
			return;
		race_pause_elsewhere(20);
	}
	expect(false, "%zu of %zu pages are swapped out",
	       count_swapped(area, pages), pages);
}

/* A child that has what its parent has, until it is told to end. */
struct keeper {
	pid_t pid;
	int fd;
};

static struct keeper keep_alive(void)
{
	struct keeper keeper;
	int fds[2];
	char byte;

	expect(!pipe(fds), "pipe: %s", strerror(errno));
	keeper.pid = fork();
	expect(keeper.pid >= 0, "fork: %s", strerror(errno));
	if (!keeper.pid) {
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) != 0);
	}
	close(fds[0]);
	keeper.fd = fds[1];
	return keeper;
}

static void let_end(struct keeper keeper)
{
	close(keeper.fd);
	waitpid(keeper.pid, NULL, 0);
}

/*
 * Swap. A page whose swap somebody else needs stays, with nothing lost; one
 * whose swap is just a copy gives it up and moves.
 */
static void swap_cache(void)
{
	char *area = map_filled(PAGES);
	struct keeper child;
	size_t cached;

	page_out(area, PAGES);
	child = keep_alive();
	check_by_cpu(area, PAGES);
	cached = count_flag(area, PAGES, KPF_SWAPCACHE);
	expect(cached == PAGES, "%zu pages are in the swap cache", cached);
	expect(!to_device(area, PAGES), "pages moved whose swap is in use");
	expect(count_flag(area, PAGES, KPF_SWAPCACHE) == PAGES,
	       "pages have left the swap cache");
	check_by_device(area, PAGES);
	check_by_cpu(area, PAGES);

	let_end(child);
	cached = count_flag(area, PAGES, KPF_SWAPCACHE);
	expect(cached == PAGES, "%zu pages are still in the swap cache",
	       cached);
	expect(to_device(area, PAGES) == PAGES,
	       "pages stay whose swap nobody needs");
	check_by_device(area, PAGES);
	to_system(area, PAGES);
	expect(!count_flag(area, PAGES, KPF_SWAPCACHE),
	       "pages came back with swap");
	check_by_cpu(area, PAGES);
}

/* The child that needs the swap finds its own contents there. */
static void swap_of_a_child(void)
{
	char *area = map_filled(PAGES);
	int status;
	pid_t pid;

	page_out(area, PAGES);
	pid = fork();
	expect(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		usleep(200000);
		check_by_cpu(area, PAGES);
		_exit(PASS);
	}
	check_by_cpu(area, PAGES);
	to_device(area, PAGES);
	memset(area, 0x55, PAGES * device.page_size);
	waitpid(pid, &status, 0);
	expect(WIFEXITED(status) && !WEXITSTATUS(status),
	       "the child does not find its memory");
}

/* What is swapped out does not move, and is not lost by the attempt. */
static void swapped_out(void)
{
	char *area = map_filled(PAGES);

	page_out(area, PAGES);
	race_device(device.fd, HMM_DMIRROR_MIGRATE_TO_DEV, area, PAGES,
		    device.buffer);
	expect(!on_device(area, PAGES), "swap was migrated");
	check_by_cpu(area, PAGES);
	expect(to_device(area, PAGES) == PAGES, "pages do not move");
	check_by_cpu(area, PAGES);
}

/* KSM */

static void fill_alike(char *area)
{
	for (size_t i = 0; i < PAGES; i++)
		memset(page_of(area, i), i & 1 ? 0x77 : i + 1,
		       device.page_size);
}

static void check_alike(char *area)
{
	for (size_t i = 0; i < PAGES; i++) {
		unsigned char byte = i & 1 ? 0x77 : i + 1;

		expect((unsigned char)page_of(area, i)[i] == byte,
		       "page %zu is not what it was", i);
	}
}

/* Pages 1, 3 and so on, if they are all the same page. */
static bool is_merged(char *area)
{
	uint64_t pfn = pagemap_entry(page_of(area, 1)) & PM_PFN;

	for (size_t i = 1; i < PAGES; i += 2)
		if (!(pagemap_entry(page_of(area, i)) >> PM_PRESENT & 1) ||
		    (pagemap_entry(page_of(area, i)) & PM_PFN) != pfn)
			return false;
	return true;
}

static void merge_by_ksm(char *area)
{
	expect(!madvise(area, PAGES * device.page_size, MADV_MERGEABLE),
	       "MADV_MERGEABLE: %s", strerror(errno));
	race_write_file(KSM "sleep_millisecs", "1");
	race_write_file(KSM "pages_to_scan", "2000");
	race_write_file(KSM "run", "1");
	for (int i = 0; i < 600 && !is_merged(area); i++)
		usleep(20000);
	race_write_file(KSM "run", "0");
	expect(is_merged(area), "KSM does not merge the pages");
}

/* Every second page is merged: those stay, the others go. */
static void merged_pages(void)
{
	char *area = map(PAGES);
	size_t moved;

	fill_alike(area);
	merge_by_ksm(area);
	moved = to_device(area, PAGES);
	expect(moved == PAGES / 2, "%zu pages moved", moved);
	expect(is_merged(area), "pages are not merged any more");
	check_alike(area);
	memset(area, 1, PAGES * device.page_size);
	moved = to_device(area, PAGES);
	expect(moved == PAGES, "%zu pages moved that are unmerged", moved);
	race_write_file(KSM "run", "2");
}

/* The memory controller */

#define ROUNDS		8
/* what the CPUs may hold in stock, and what page tables take */
#define SLACK		(2L << 20)

struct charged {
	long anon;
	long current;
};

/*
 * memory.stat is brought up to date when it is read only if much has changed
 * since the last time, so something has to.
 */
#define CHURN	1024

static struct charged charged_now(void)
{
	munmap(map_filled(CHURN), CHURN * device.page_size);
	return (struct charged) {
		race_read_number(CGROUP "/memory.stat", "anon"),
		race_read_number(CGROUP "/memory.current", NULL),
	};
}

/* Anonymous memory is counted to the page, what is charged with some slack. */
static void check_charged(const char *when, struct charged before, long pages)
{
	struct charged now = charged_now();
	long bytes = pages * (long)device.page_size;
	long extra = now.current - before.current - bytes;

	expect(now.anon - before.anon == bytes,
	       "%s: anonymous memory is %ld, not %ld", when,
	       now.anon - before.anon, bytes);
	expect(extra < SLACK && extra > -SLACK,
	       "%s: charged is %ld, not %ld", when,
	       now.current - before.current, bytes);
}

/* Each page that the test itself needs is its own before it counts. */
static void warm_up(void)
{
	char *area = map_filled(1);

	memset(seen, 1, sizeof(seen));
	memset(device.buffer, 1, MANY * device.page_size);
	to_device(area, 1);
	to_system(area, 1);
	check_by_cpu(area, 1);
	munmap(area, device.page_size);
	charged_now();
}

static void enter_cgroup(void)
{
	char pid[16];

	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		exit(SKIP);
	snprintf(pid, sizeof(pid), "%d", getpid());
	if (race_write_file(CGROUP "/cgroup.procs", pid) ||
	    charged_now().current < 0)
		exit(SKIP);
	warm_up();
}

static void charges_of_moves(void)
{
	struct charged before;
	char *area;

	enter_cgroup();
	before = charged_now();
	for (int i = 0; i < ROUNDS; i++) {
		area = map_filled(MANY);
		check_charged("touched", before, MANY);
		expect(to_device(area, MANY) == MANY, "pages do not move");
		check_charged("on the device", before, MANY);
		to_system(area, MANY / 2);
		check_charged("half of it back", before, MANY);
		check_by_cpu(area, MANY);
		check_charged("all of it back", before, MANY);
		munmap(area, MANY * device.page_size);
		check_charged("unmapped", before, 0);
	}
}

static void charges_of_holes(void)
{
	struct charged before;
	char *area;

	enter_cgroup();
	before = charged_now();
	for (int i = 0; i < ROUNDS; i++) {
		area = map(MANY);
		expect(to_device(area, MANY) == MANY, "holes do not move");
		check_charged("populated", before, MANY);
		madvise(area, MANY / 2 * device.page_size, MADV_DONTNEED);
		check_charged("half of it discarded", before, MANY / 2);
		to_system(area, MANY);
		check_charged("the rest back", before, MANY / 2);
		munmap(area, MANY * device.page_size);
		check_charged("unmapped", before, 0);
	}
}

#define CHUNK	(256UL << 20)	/* of coherent memory, in all */

/*
 * A device that has room for some only: moved or not, pages stay charged. For
 * coherent memory alone, since the dummy device gets more of the private kind
 * when it is full.
 */
static void charges_where_some_move(void)
{
	size_t all = CHUNK / device.page_size, left = MANY / 4, moved;
	char *filler, *area, *holes;
	struct charged before;

	filler = map(all);
	for (size_t i = 0; i < all - left; i += MANY)
		race_device(device.fd, HMM_DMIRROR_MIGRATE_TO_DEV,
			    page_of(filler, i),
			    i + MANY > all - left ? all - left - i : MANY,
			    device.buffer);
	enter_cgroup();
	before = charged_now();
	area = map_filled(MANY);
	moved = to_device(area, MANY);
	expect(moved == left, "%zu pages moved where there was room for %zu",
	       moved, left);
	check_charged("some on the device", before, MANY);
	check_by_cpu(area, MANY);
	to_system(area, MANY);
	check_charged("back", before, MANY);
	holes = map(MANY);
	moved = to_device(holes, MANY);
	expect(moved == left, "%zu holes were filled where there was room for %zu",
	       moved, left);
	check_charged("holes", before, MANY + moved);
	munmap(area, MANY * device.page_size);
	munmap(holes, MANY * device.page_size);
	check_charged("unmapped", before, 0);
}

/* Exclusive access */

static bool has_exclusively(char *addr)
{
	return race_device(device.fd, HMM_DMIRROR_CHECK_EXCLUSIVE, addr, 1,
			   NULL) && errno == EPERM;
}

static void make_exclusive(char *area, size_t pages)
{
	expect(!race_device(device.fd, HMM_DMIRROR_EXCLUSIVE, area, pages,
			    device.buffer),
	       "exclusive access: %s", strerror(errno));
	for (size_t i = 0; i < pages; i++) {
		check_word("the device", i,
			   *(uint64_t *)page_of(device.buffer, i));
		expect(has_exclusively(page_of(area, i)),
		       "page %zu is not exclusive", i);
	}
}

/* What the device writes into page @i, and the CPU never did. */
static uint64_t device_word_of(size_t i)
{
	return ~word_of(i);
}

static void device_writes(char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		*(uint64_t *)page_of(device.buffer, i) = device_word_of(i);
	expect(!race_device(device.fd, HMM_DMIRROR_WRITE, area, pages,
			    device.buffer),
	       "device write: %s", strerror(errno));
	for (size_t i = 0; i < pages; i++)
		expect(has_exclusively(page_of(area, i)),
		       "page %zu is not exclusive after the device wrote", i);
}

static void check_device_writes(char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		expect(*(uint64_t *)page_of(area, i) == device_word_of(i),
		       "what the device wrote to page %zu is lost", i);
}

static size_t count_exclusive(char *area, size_t pages)
{
	size_t found = 0;

	for (size_t i = 0; i < pages; i++)
		found += has_exclusively(page_of(area, i));
	return found;
}

static size_t count_present(char *area, size_t pages)
{
	size_t found = 0;

	for (size_t i = 0; i < pages; i++)
		found += pagemap_entry(page_of(area, i)) >> PM_PRESENT & 1;
	return found;
}

/* @how is "hard" or "soft". */
static void offline_page(const char *how, uint64_t pfn)
{
	char path[64], text[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/memory/%s_offline_page", how);
	snprintf(text, sizeof(text), "%#llx",
		 (unsigned long long)(pfn * device.page_size));
	if (access(path, W_OK))
		exit(SKIP);
	expect(!race_write_file(path, text), "%s: %s", path, strerror(errno));
}

/* The device wrote last: it loses the pages, and they go to swap. */
static void exclusive_and_reclaim(void)
{
	char *area;

	enter_cgroup();
	area = map_filled(PAGES);
	make_exclusive(area, PAGES);
	device_writes(area, PAGES);
	for (int i = 0; i < 50 && count_swapped(area, PAGES) < PAGES; i++)
		race_write_file(CGROUP "/memory.reclaim", "16M");
	expect(count_swapped(area, PAGES) == PAGES,
	       "only %zu of %d pages were swapped out",
	       count_swapped(area, PAGES), PAGES);
	expect(!count_exclusive(area, PAGES),
	       "the device still has pages that are swapped out");
	check_device_writes(area, PAGES);
	page_out(area, PAGES);
	check_device_writes(area, PAGES);
}

/* More memory than there may be, all of it exclusive, with the file open. */
static void exclusive_under_a_limit(void)
{
	size_t chunk = MANY / 4, chunks = 16;
	char *area;

	enter_cgroup();
	expect(!race_write_file(CGROUP "/memory.max", "24M"),
	       "memory.max: %s", strerror(errno));
	area = map(chunk * chunks);
	for (size_t i = 0; i < chunks; i++) {
		char *part = page_of(area, i * chunk);

		fill(part, chunk);
		expect(!race_device(device.fd, HMM_DMIRROR_EXCLUSIVE, part,
				    chunk, device.buffer),
		       "exclusive access: %s", strerror(errno));
	}
	for (size_t i = 0; i < chunks; i++)
		check_by_cpu(page_of(area, i * chunk), chunk);
}

static int open_device(bool coherent)
{
	device.place = coherent ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
				  HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	device.fd = race_open_device(coherent ? 2 : 0);
	return device.fd;
}

/* Exits with 0 if there were all pages, with 1 if fewer. It may be killed. */
static void take_at_once(bool coherent, size_t pages)
{
	struct hmm_dmirror_cmd cmd = { .npages = pages };

	expect(open_device(coherent) >= 0, "the device: %s", strerror(errno));
	enter_cgroup();
	munmap(device.buffer, MANY * device.page_size);
	expect(!race_write_file(CGROUP "/memory.max", "8M"),
	       "memory.max: %s", strerror(errno));
	cmd.addr = (uintptr_t)map(pages);
	exit(ioctl(device.fd, HMM_DMIRROR_EXCLUSIVE_AT_ONCE, &cmd) ||
	     cmd.cpages < pages);
}

/* Return: the status of the process when it has ended, or -1. */
static int wait_for(pid_t pid, int seconds)
{
	int status;

	for (int i = 0; i < seconds * 10; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(100000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

static int status_at_once(size_t pages)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	expect(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		take_at_once(device.place == HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL,
			     pages);
	return wait_for(pid, 120);
}

/*
 * Pages that are taken are locked until the call returns. If not all of them
 * fit, it must end, with fewer pages or by the OOM killer.
 */
static void exclusive_at_once_under_a_limit(void)
{
	int status = status_at_once(MANY / 2);

	expect(status >= 0 && WIFEXITED(status) && !WEXITSTATUS(status),
	       "status %#x where the range is within the limit", status);
	expect(status_at_once(2 * MANY) > 0,
	       "the call does not end, or locks more than there may be");
}

/* Each file gives back its own pages, and none of the other. */
static void exclusive_and_close(void)
{
	char *area = map_filled(PAGES), *half = page_of(area, PAGES / 2);
	int second = race_open_device(0);

	expect(second >= 0, "a second device file: %s", strerror(errno));
	expect(!race_device(second, HMM_DMIRROR_EXCLUSIVE, area, PAGES,
			    device.buffer),
	       "exclusive access: %s", strerror(errno));
	expect(!race_device(device.fd, HMM_DMIRROR_EXCLUSIVE, half, PAGES / 2,
			    device.buffer),
	       "exclusive access: %s", strerror(errno));
	close(second);
	expect(count_present(area, PAGES / 2) == PAGES / 2,
	       "%zu of %d pages are present after close()",
	       count_present(area, PAGES / 2), PAGES / 2);
	expect(count_exclusive(half, PAGES / 2) == PAGES / 2,
	       "close() took pages of another file");
	check_by_cpu(area, PAGES);
}

/* A poisoned page has no user left. */
static void exclusive_and_poison(void)
{
	uint64_t pfn;
	char *area = map_filled(2);
	int status;
	pid_t pid;

	pfn = pagemap_entry(area) & PM_PFN;
	make_exclusive(area, 2);
	offline_page("hard", pfn);
	expect(!has_exclusively(area), "the device has a poisoned page");
	expect(race_device(device.fd, HMM_DMIRROR_READ, area, 1,
			   device.buffer) && errno == EFAULT,
	       "the device reads a poisoned page");
	pid = fork();
	expect(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		_exit(*(volatile char *)area == 0);
	waitpid(pid, &status, 0);
	expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
	       "the CPU reads a poisoned page");
	check_word("the CPU", 1, *(uint64_t *)page_of(area, 1));
}

static void exclusive_and_soft_offline(void)
{
	char *area = map_filled(PAGES);
	uint64_t pfn = pagemap_entry(area) & PM_PFN;

	make_exclusive(area, PAGES);
	device_writes(area, PAGES);
	offline_page("soft", pfn);
	expect(!has_exclusively(area), "the device has a page that moved");
	expect(count_exclusive(area, PAGES) == PAGES - 1,
	       "other pages were taken from the device");
	check_device_writes(area, PAGES);
	expect((pagemap_entry(area) & PM_PFN) != pfn, "the page did not move");
}

/* kB in the line @key of smaps for the mapping that begins at @area, or -1 */
static long smaps_kb(const char *area, const char *key)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	bool inside = false;
	char line[512];
	long kb = -1;

	expect(file, "smaps: %s", strerror(errno));
	while (kb < 0 && fgets(line, sizeof(line), file)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start == (uintptr_t)area;
		else if (inside && !strncmp(line, key, strlen(key)))
			kb = atol(line + strlen(key));
	}
	fclose(file);
	return kb;
}

static void exclusive_and_smaps(void)
{
	long size = PAGES * device.page_size / 1024;
	char *area = map_filled(PAGES);

	/* a mapping of its own */
	madvise(area, PAGES * device.page_size, MADV_DONTDUMP);
	make_exclusive(area, PAGES);
	expect(smaps_kb(area, "Rss:") == size, "Rss: %ld kB",
	       smaps_kb(area, "Rss:"));
	expect(smaps_kb(area, "Pss:") == size, "Pss: %ld kB",
	       smaps_kb(area, "Pss:"));
	expect(smaps_kb(area, "Private_Dirty:") == size,
	       "Private_Dirty: %ld kB", smaps_kb(area, "Private_Dirty:"));
	expect(!smaps_kb(area, "Swap:"), "Swap: %ld kB",
	       smaps_kb(area, "Swap:"));
}

/* munlock() finds pages that are mapped without being present. */
static void exclusive_and_mlock(void)
{
	size_t size = PAGES * device.page_size;
	char *area = map_filled(PAGES);
	uint64_t pfn = pagemap_entry(area) & PM_PFN;

	expect(!mlock(area, size), "mlock: %s", strerror(errno));
	expect(read_word("/proc/kpageflags", pfn) >> KPF_MLOCKED & 1,
	       "the page is not mlocked");
	make_exclusive(area, PAGES);
	expect(read_word("/proc/kpageflags", pfn) >> KPF_MLOCKED & 1,
	       "exclusive access ends mlock()");
	expect(!munlock(area, size), "munlock: %s", strerror(errno));
	expect(!(read_word("/proc/kpageflags", pfn) >> KPF_MLOCKED & 1),
	       "the page is mlocked after munlock()");
	expect(count_exclusive(area, PAGES) == PAGES,
	       "munlock() took pages from the device");
	check_by_cpu(area, PAGES);
}

static void exclusive_and_swapped_out(void)
{
	char *area = map_filled(PAGES);

	page_out(area, PAGES);
	make_exclusive(area, PAGES);
	check_by_cpu(area, PAGES);
}

static void exclusive_and_mremap(void)
{
	size_t size = PAGES * device.page_size;
	char *area = map_filled(PAGES), *to = map(PAGES), *moved;

	make_exclusive(area, PAGES);
	moved = mremap(area, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	expect(moved == to, "mremap: %s", strerror(errno));
	for (size_t i = 0; i < PAGES; i++)
		expect(!has_exclusively(page_of(area, i)),
		       "page %zu is exclusive where it was", i);
	check_by_cpu(to, PAGES);
	make_exclusive(to, PAGES);
	check_by_cpu(to, PAGES);
}

static int open_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MOVE,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	expect(uffd >= 0, "userfaultfd: %s", strerror(errno));
	expect(!ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API: %s",
	       strerror(errno));
	return uffd;
}

/* The pages move as if the CPU had them. */
static void exclusive_and_uffdio_move(void)
{
	size_t size = PAGES * device.page_size;
	char *area = map_filled(PAGES), *to = map(PAGES);
	struct uffdio_register reg = {
		.range = { .start = (unsigned long)to, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_move move = {
		.dst = (unsigned long)to,
		.src = (unsigned long)area,
		.len = size,
	};
	int uffd = open_uffd();

	expect(!ioctl(uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER: %s",
	       strerror(errno));
	make_exclusive(area, PAGES);
	expect(!ioctl(uffd, UFFDIO_MOVE, &move), "UFFDIO_MOVE: %s, moved %lld",
	       strerror(errno), (long long)move.move);
	for (size_t i = 0; i < PAGES; i++)
		expect(!has_exclusively(page_of(area, i)),
		       "page %zu is exclusive where it was", i);
	check_by_cpu(to, PAGES);
	close(uffd);
	make_exclusive(to, PAGES);
	check_by_cpu(to, PAGES);
}

/* Pages that compaction moves are no longer the device's. */
static void exclusive_and_compaction(void)
{
	char *area = map_filled(PAGES);

	make_exclusive(area, PAGES);
	device_writes(area, PAGES);
	race_write_file("/proc/sys/vm/compact_memory", "1");
	for (size_t i = 0; i < PAGES; i++)
		expect(has_exclusively(page_of(area, i)) ==
		       !count_present(page_of(area, i), 1),
		       "the device and the CPU have page %zu", i);
	check_device_writes(area, PAGES);
	fill(area, PAGES);
	expect(to_device(area, PAGES) == PAGES, "pages do not move afterwards");
	make_exclusive(area, PAGES);
	check_by_cpu(area, PAGES);
}

#define NEEDS_SWAP	1
#define ONLY_COHERENT	2

static const struct outcome_test {
	const char *name;
	void (*body)(void);
	unsigned int flags;
} tests[] = {
	{ "swap cache", swap_cache, NEEDS_SWAP },
	{ "swap that a child needs", swap_of_a_child, NEEDS_SWAP },
	{ "swapped out", swapped_out, NEEDS_SWAP },
	{ "merged pages", merged_pages, 0 },
	{ "charges of moves", charges_of_moves, 0 },
	{ "charges of holes", charges_of_holes, 0 },
	{ "charges where some move", charges_where_some_move, ONLY_COHERENT },
	{ "exclusive and reclaim", exclusive_and_reclaim, NEEDS_SWAP },
	{ "exclusive and swapped out", exclusive_and_swapped_out, NEEDS_SWAP },
	{ "exclusive and mremap", exclusive_and_mremap, 0 },
	{ "exclusive and UFFDIO_MOVE", exclusive_and_uffdio_move, 0 },
	{ "exclusive and compaction", exclusive_and_compaction, 0 },
	{ "exclusive under a limit", exclusive_under_a_limit, NEEDS_SWAP },
	{ "exclusive at once under a limit", exclusive_at_once_under_a_limit,
	  NEEDS_SWAP },
	{ "exclusive and close", exclusive_and_close, 0 },
	{ "exclusive and poison", exclusive_and_poison, 0 },
	{ "exclusive and soft offline", exclusive_and_soft_offline, 0 },
	{ "exclusive and smaps", exclusive_and_smaps, 0 },
	{ "exclusive and mlock", exclusive_and_mlock, 0 },
};

#define NR_TESTS	ARRAY_SIZE(tests)

static bool test_exists(const struct outcome_test *test, bool coherent)
{
	return coherent || !(test->flags & ONLY_COHERENT);
}

static void run(const struct outcome_test *test, bool coherent)
{
	const char *kind = coherent ? "coherent" : "private";
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (open_device(coherent) < 0)
			exit(SKIP);
		device.buffer = map(MANY);
		test->body();
		exit(PASS);
	}
	waitpid(pid, &status, 0);
	rmdir(CGROUP);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP)
		ksft_test_result_skip("%s %s\n", kind, test->name);
	else
		ksft_test_result(WIFEXITED(status) && !WEXITSTATUS(status),
				 "%s %s\n", kind, test->name);
}

static void run_all(bool coherent, const char *no_swap)
{
	for (size_t i = 0; i < NR_TESTS; i++) {
		if (!test_exists(&tests[i], coherent))
			continue;
		if (no_swap && tests[i].flags & NEEDS_SWAP)
			ksft_test_result_skip("%s: %s\n", tests[i].name,
					      no_swap);
		else
			run(&tests[i], coherent);
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
	const char *no_swap;
	bool our_swap;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	ksft_set_plan(count_tests());
	device.page_size = sysconf(_SC_PAGESIZE);
	no_swap = race_swap_begin(&our_swap);
	run_all(false, no_swap);
	run_all(true, no_swap);
	race_swap_end(our_swap);
	ksft_finished();
}
