// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drive the example driver of HMM, drivers/misc/hmm_example.c.
 *
 * The CPU builds data with pointers in ordinary memory and the device works on
 * it at the same addresses, wherever the pages are. Every step is a test: its
 * result is compared with that of the CPU. Prints TAP.
 *
 * The last step unbinds the driver while its memory is in use, which takes
 * root. It binds the driver again.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <misc/hmm_example.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define DEVICE		"/dev/hmm_example"
#define DRIVER		"/sys/bus/platform/drivers/hmm_example/"
#define NODES		1000
#define HUGE_TESTS	7
#define TESTS		(31 + HUGE_TESTS)
#define LARGEST		(2 << 20)	/* bytes of a folio on the device */

struct memory {
	uint64_t *words;
	size_t len;		/* bytes */
};

static int device;
static size_t page_size;
static size_t pages;		/* of most tests: a quarter of the device */
static size_t huge;		/* bytes of a huge page; 0: there is none */
static unsigned int tests, failed;

static void result(bool ok, const char *name)
{
	tests++;
	if (!ok)
		failed++;
	printf("%sok %u %s\n", ok ? "" : "not ", tests, name);
	fflush(stdout);
}

static void die(const char *call)
{
	printf("Bail out! %s: %s\n", call, strerror(errno));
	exit(1);
}

/* Returns 0 or an errno; @value is operand and result. */
static int command(unsigned long cmd, const void *addr, size_t len,
		   uint64_t *value)
{
	struct hmm_example_args args = {
		.addr = (uintptr_t)addr,
		.len = len,
		.value = *value,
	};

	if (ioctl(device, cmd, &args))
		return errno;
	*value = args.value;
	return 0;
}

static bool device_sums(const void *addr, size_t len, uint64_t sum)
{
	uint64_t value = 0;

	return !command(HMM_EXAMPLE_SUM, addr, len, &value) && value == sum;
}

static bool device_adds_up(const void *addr, size_t len, uint64_t add,
			   uint64_t sum)
{
	return !command(HMM_EXAMPLE_ADD, addr, len, &add) && add == sum;
}

static bool device_adds(const void *addr, size_t len, uint64_t add)
{
	return !command(HMM_EXAMPLE_ADD, addr, len, &add);
}

static unsigned long moved(unsigned long cmd, const struct memory *mem)
{
	uint64_t value = 0;

	return command(cmd, mem->words, mem->len, &value) ? 0 : value;
}

static struct memory map(size_t len)
{
	struct memory mem = { .len = len };

	mem.words = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem.words == MAP_FAILED)
		die("mmap");
	return mem;
}

static void unmap(struct memory *mem)
{
	munmap(mem->words, mem->len);
}

/* Each word is its index plus @base: sums of different places differ. */
static void fill(struct memory *mem, uint64_t base)
{
	size_t i;

	for (i = 0; i < mem->len / sizeof(uint64_t); i++)
		mem->words[i] = base + i;
}

static uint64_t sum(const struct memory *mem, uint64_t base)
{
	uint64_t n = mem->len / sizeof(uint64_t);

	return n * base + n * (n - 1) / 2;
}

static bool check(const struct memory *mem, uint64_t base)
{
	size_t i;

	for (i = 0; i < mem->len / sizeof(uint64_t); i++)
		if (mem->words[i] != base + i)
			return false;
	return true;
}

static void test_mirror(void)
{
	struct memory mem = map(pages * page_size);

	fill(&mem, 5);
	result(device_sums(mem.words, mem.len, sum(&mem, 5)),
	       "device reads memory of the process");
	result(device_adds(mem.words, mem.len, 2) && check(&mem, 7),
	       "CPU reads what the device wrote");
	mem.words[3] += 100;
	result(device_sums(mem.words, mem.len, sum(&mem, 7) + 100),
	       "device reads what the CPU wrote meanwhile");
	result(device_adds_up(mem.words, mem.len, 1, sum(&mem, 8) + 100),
	       "device returns the sum of what it wrote");
	unmap(&mem);
	mem = map(pages * page_size);
	result(device_adds(mem.words, mem.len, 1) &&
	       device_sums(mem.words, mem.len, mem.len / sizeof(uint64_t)),
	       "device writes to memory that has no pages yet");
	unmap(&mem);
}

/* A list of one node that is its own successor. */
static struct memory endless_list(void)
{
	struct memory mem = map(page_size);
	struct hmm_example_node *node = (struct hmm_example_node *)mem.words;

	node->next = (uintptr_t)node;
	return mem;
}

/* A child whose own device follows the list until it returns @error. */
static pid_t start_endless_child(const struct memory *list, int error)
{
	int ready[2], ret;
	uint64_t value = 0;
	pid_t pid;
	char c = 0;

	if (pipe(ready))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(device);
		device = open(DEVICE, O_RDWR);
		if (device < 0 || write(ready[1], &c, 1) != 1)
			_exit(1);
		ret = command(HMM_EXAMPLE_LIST, list->words, -1ul, &value);
		_exit(ret != error);
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1)
		die("open of the child");
	close(ready[0]);
	return pid;
}

static void test_kill(void)
{
	struct memory list = endless_list();
	pid_t pid = start_endless_child(&list, 0);
	int status = 0;

	usleep(100000);		/* most likely, it follows the list by now */
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	result(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
	       "process that follows an endless list can be killed");
	unmap(&list);
}

static void test_list(void)
{
	struct hmm_example_node *nodes[NODES];
	uint64_t value = 0;
	int i, j;

	for (i = 0; i < NODES; i++) {
		nodes[i] = aligned_alloc(sizeof(*nodes[i]), 16 * (1 + i % 50));
		if (!nodes[i])
			die("aligned_alloc");
		nodes[i]->value = i;
		nodes[i]->next = 0;
	}
	for (i = 0; i < NODES - 1; i++) {
		j = (i * 7 + 7) % NODES;
		nodes[i * 7 % NODES]->next = (uintptr_t)nodes[j];
	}
	result(!command(HMM_EXAMPLE_LIST, nodes[0], NODES, &value) &&
	       value == NODES * (NODES - 1ull) / 2,
	       "device follows pointers of the process");
	nodes[(NODES - 1) * 7 % NODES]->next = (uintptr_t)nodes[0];
	result(command(HMM_EXAMPLE_LIST, nodes[0], NODES, &value) == E2BIG,
	       "list without an end is given up");
	nodes[0]->next = 16;
	result(command(HMM_EXAMPLE_LIST, nodes[0], NODES, &value) == EFAULT,
	       "pointer to nowhere is an error");
	for (i = 0; i < NODES; i++)
		free(nodes[i]);
}

static void test_migrate(void)
{
	struct memory mem = map(pages * page_size);

	fill(&mem, 9);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == pages,
	       "pages move to the device");
	result(device_sums(mem.words, mem.len, sum(&mem, 9)) &&
	       device_adds(mem.words, mem.len, 1) &&
	       moved(HMM_EXAMPLE_TO_DEVICE, &mem) == 0,
	       "device works on its own memory, which stays there");
	result(moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == pages && check(&mem, 10),
	       "pages move to system memory");
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == pages &&
	       device_adds(mem.words, mem.len, 1) && check(&mem, 11),
	       "CPU faults migrate pages back");
	result(moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == 0,
	       "no page is left on the device");
	unmap(&mem);
	mem = map(pages * page_size);
	result(moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == 0,
	       "holes stay holes on the way to system memory");
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == pages &&
	       device_sums(mem.words, mem.len, 0),
	       "holes are filled on the device");
	unmap(&mem);
}

static void test_evict(void)
{
	struct memory mem = map(HMM_EXAMPLE_MEMORY);
	size_t nr = HMM_EXAMPLE_MEMORY / page_size;

	fill(&mem, 11);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr &&
	       moved(HMM_EXAMPLE_TO_DEVICE, &mem) == 0 &&
	       moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == nr && check(&mem, 11),
	       "full device evicts nothing without need");
	unmap(&mem);
	mem = map(HMM_EXAMPLE_MEMORY * 3 / 2);
	fill(&mem, 13);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr * 3 / 2,
	       "full device makes room");
	result(moved(HMM_EXAMPLE_TO_SYSTEM, &mem) <= nr && check(&mem, 13),
	       "evicted pages are intact");
	unmap(&mem);
}

/*
 * A page of other memory makes the device one page too small. It evicts 2 MiB, at another place in
 * each round, but no page that has just moved, which would move, and count, twice.
 */
static void test_evict_for_one(void)
{
	struct memory mem = map(HMM_EXAMPLE_MEMORY), one = map(page_size);
	size_t nr = HMM_EXAMPLE_MEMORY / page_size;
	bool once = true;
	int i;

	madvise(mem.words, mem.len, MADV_NOHUGEPAGE);
	fill(&mem, 15);
	fill(&one, 16);
	for (i = 0; i < HMM_EXAMPLE_MEMORY / LARGEST; i++) {
		once &= moved(HMM_EXAMPLE_TO_DEVICE, &one) == 1 &&
			moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr;
		moved(HMM_EXAMPLE_TO_SYSTEM, &one);
		moved(HMM_EXAMPLE_TO_SYSTEM, &mem);
	}
	result(once && check(&mem, 15) && check(&one, 16),
	       "device that lacks one page moves each page once");
	unmap(&one);
	unmap(&mem);
}

/* At an address that a huge page can have. Gaps keep it a VMA of its own. */
static struct memory map_huge(size_t len)
{
	struct memory mem = map(len + huge);
	char *start = (char *)mem.words;
	size_t before = -(uintptr_t)start & (huge - 1);

	if (before)
		munmap(start, before);
	munmap(start + before + len, huge - before);
	mem.words = (uint64_t *)(start + before);
	mem.len = len;
	madvise(mem.words, len, MADV_HUGEPAGE);
	return mem;
}

/* Fill it with huge pages, also if they are switched off. */
static void fill_huge(struct memory *mem, uint64_t base)
{
	fill(mem, base);
	madvise(mem->words, mem->len, MADV_COLLAPSE);
}

/* Bytes that huge pages map, in system memory or on the device. */
static size_t mapped_huge(const struct memory *mem)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	unsigned long start, end, addr = (uintptr_t)mem->words;
	bool found = false;
	size_t kib = 0;
	char line[256];

	if (!smaps)
		die("/proc/self/smaps");
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			found = start <= addr && addr < end;
		else if (found && sscanf(line, "AnonHugePages: %zu", &kib) == 1)
			break;
	}
	fclose(smaps);
	return kib << 10;
}

static bool all_huge(const struct memory *mem)
{
	return mapped_huge(mem) == mem->len;
}

static void test_huge(void)
{
	size_t nr = huge / page_size, middle = huge / sizeof(uint64_t) / 2;
	struct memory mem = map_huge(huge);

	fill_huge(&mem, 31);
	result(all_huge(&mem), "CPU fills a huge page");
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr && all_huge(&mem) &&
	       device_adds_up(mem.words, mem.len, 1, sum(&mem, 32)) &&
	       moved(HMM_EXAMPLE_TO_DEVICE, &mem) == 0,
	       "huge page moves to the device as one");
	result(mem.words[middle] == 32 + middle &&
	       moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == 0 && all_huge(&mem) &&
	       check(&mem, 32), "one CPU fault brings it back as one");
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr &&
	       moved(HMM_EXAMPLE_TO_SYSTEM, &mem) == nr && all_huge(&mem) &&
	       check(&mem, 32), "huge page moves to system memory as one");
	unmap(&mem);
	mem = map_huge(huge);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == nr && all_huge(&mem) &&
	       device_sums(mem.words, mem.len, 0),
	       "hole of a huge page is filled by one");
	unmap(&mem);
}

static void test_evict_huge(void)
{
	struct memory first = map_huge(HMM_EXAMPLE_MEMORY), mem = map_huge(huge);

	fill_huge(&first, 33);
	fill_huge(&mem, 34);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &first) == first.len / page_size &&
	       all_huge(&first) &&
	       moved(HMM_EXAMPLE_TO_DEVICE, &mem) == huge / page_size &&
	       all_huge(&mem) && check(&mem, 34) && check(&first, 33),
	       "full device makes room for a huge page");
	unmap(&mem);
	unmap(&first);
}

/* Leave a page in each part of the device, so that no huge page finds room. */
static struct memory fragment_device(void)
{
	struct memory mem = map(HMM_EXAMPLE_MEMORY), part = mem;

	madvise(mem.words, mem.len, MADV_NOHUGEPAGE);
	fill(&mem, 35);
	moved(HMM_EXAMPLE_TO_DEVICE, &mem);
	part.len = huge - page_size;
	for (; part.words < mem.words + mem.len / sizeof(uint64_t);
	     part.words += huge / sizeof(uint64_t))
		moved(HMM_EXAMPLE_TO_SYSTEM, &part);
	return mem;
}

static void test_fragmented(void)
{
	struct memory left = fragment_device(), mem = map_huge(huge);

	fill_huge(&mem, 36);
	result(moved(HMM_EXAMPLE_TO_DEVICE, &mem) == huge / page_size &&
	       !mapped_huge(&mem) &&
	       device_adds_up(mem.words, mem.len, 1, sum(&mem, 37)) &&
	       moved(HMM_EXAMPLE_TO_SYSTEM, &left) == left.len / huge &&
	       check(&left, 35) && check(&mem, 37),
	       "fragmented device takes a huge page in pages");
	unmap(&mem);
	unmap(&left);
}

static size_t huge_page_size(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
			   "r");
	size_t size = 0;

	if (file && fscanf(file, "%zu", &size) != 1)
		die("hpage_pmd_size");
	if (file)
		fclose(file);
	return size;
}

static void test_large(void)
{
	int i;

	huge = huge_page_size();
	if (huge && huge <= LARGEST) {
		test_huge();
		test_evict_huge();
		test_fragmented();
		return;
	}
	for (i = 1; i <= HUGE_TESTS; i++)
		printf("ok %u huge page, test %d # SKIP %s\n", ++tests, i,
		       huge ? "it is too large for the device" :
			      "the kernel has none");
}

/* In a child that has inherited memory and device. */
static bool child_sees(const struct memory *mem, uint64_t base)
{
	uint64_t value = 0;

	return command(HMM_EXAMPLE_SUM, mem->words, mem->len,
		       &value) == EPERM && check(mem, base);
}

static void test_forked(void)
{
	struct memory mem = map(pages * page_size);
	int status = 1;
	pid_t pid;

	fill(&mem, 17);
	if (moved(HMM_EXAMPLE_TO_DEVICE, &mem) != pages)
		die("HMM_EXAMPLE_TO_DEVICE");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		_exit(!child_sees(&mem, 17));
	result(device_adds(mem.words, mem.len, 3) && check(&mem, 20),
	       "parent owns what the device writes after fork");
	waitpid(pid, &status, 0);
	result(!status, "child has its own copy, and no device");
	unmap(&mem);
}

static void test_refused(void)
{
	struct memory mem = map(2 * page_size);
	uint64_t value = 1;

	fill(&mem, 1);
	mprotect(mem.words, mem.len, PROT_READ);
	result(command(HMM_EXAMPLE_ADD, mem.words, mem.len, &value) == EPERM &&
	       check(&mem, 1), "device does not write to read-only memory");
	munmap(mem.words, page_size);
	result(command(HMM_EXAMPLE_SUM, mem.words, 8, &value) == EFAULT &&
	       command(HMM_EXAMPLE_TO_DEVICE, mem.words, 8, &value) == EFAULT,
	       "unmapped memory is an error");
	result(command(HMM_EXAMPLE_SUM, mem.words, 0, &value) == EINVAL &&
	       command(HMM_EXAMPLE_SUM, mem.words, 7, &value) == EINVAL &&
	       command(HMM_EXAMPLE_SUM, (void *)4, 8, &value) == EINVAL &&
	       command(HMM_EXAMPLE_SUM, (void *)8, -8ul, &value) == EINVAL &&
	       command(HMM_EXAMPLE_SUM, (void *)-16ul, 8, &value) == EINVAL,
	       "absurd ranges are refused");
	result(command(0, mem.words, 7, &value) == ENOTTY &&
	       ioctl(device, 0, NULL) == -1 && errno == ENOTTY,
	       "unknown commands are refused");
	munmap((char *)mem.words + page_size, page_size);
}

static bool bind_driver(const char *file)
{
	static const char name[] = "hmm_example";
	int fd = open(file, O_WRONLY);
	bool ok = fd >= 0 && write(fd, name, strlen(name)) > 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static void test_unplug(void)
{
	struct memory mem = map(pages * page_size), list = endless_list();
	pid_t pid = start_endless_child(&list, ENODEV);
	uint64_t value = 0;
	int status = 1;
	bool unplugged;

	fill(&mem, 23);
	if (moved(HMM_EXAMPLE_TO_DEVICE, &mem) != pages)
		die("HMM_EXAMPLE_TO_DEVICE");
	unplugged = bind_driver(DRIVER "unbind");
	result(unplugged && check(&mem, 23),
	       "device is unplugged with data on it, which survives");
	result(command(HMM_EXAMPLE_SUM, mem.words, mem.len, &value) == ENODEV,
	       "unplugged device refuses work");
	if (!unplugged)
		kill(pid, SIGKILL);	/* the child would not end */
	waitpid(pid, &status, 0);
	result(!status, "unplug ends the work of another process");
	unmap(&list);
	close(device);
	result(bind_driver(DRIVER "bind"), "device is plugged in again");
	device = open(DEVICE, O_RDWR);
	result(device >= 0 && device_sums(mem.words, mem.len, sum(&mem, 23)),
	       "device works again");
	unmap(&mem);
}

int main(void)
{
	page_size = sysconf(_SC_PAGESIZE);
	device = open(DEVICE, O_RDWR);
	printf("TAP version 13\n1..%d\n", TESTS);
	if (device < 0)
		die(DEVICE);
	pages = HMM_EXAMPLE_MEMORY / page_size / 4;
	test_mirror();
	test_list();
	test_kill();
	test_migrate();
	test_evict();
	test_evict_for_one();
	test_large();
	test_forked();
	test_refused();
	test_unplug();
	return failed || tests != TESTS;
}
