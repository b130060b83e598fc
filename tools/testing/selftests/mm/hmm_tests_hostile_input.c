// SPDX-License-Identifier: GPL-2.0-only
/* Invalid input is answered with an error. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(hostile_input)

static struct hmm_dmirror_cmd area_command(const struct area *area)
{
	return (struct hmm_dmirror_cmd) {
		.addr = (uintptr_t)area->at,
		.ptr = (uintptr_t)area->buffer,
		.npages = area->pages,
	};
}

/* The device processes what fits, and reports the number of pages. */
TEST_FILLED(hostile_input, short_buffer_is_used_up_to_its_end)
{
	struct hmm_dmirror_cmd cmd = area_command(area);

	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(0, mprotect(area->buffer + 2 * PAGE, PAGE, PROT_NONE));
	EXPECT_EQ(-1, ioctl(device->fd, HMM_DMIRROR_WRITE, &cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(2, cmd.cpages);
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 0, 2, 2));
	EXPECT_EQ(-1, ioctl(device->fd, HMM_DMIRROR_READ, &cmd));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(2, cmd.cpages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 2, 2));
}

#ifndef SYS_memfd_secret
#define SYS_memfd_secret	447
#endif

/* Return: 0, or -errno; -ENOSYS without CONFIG_SECRETMEM. */
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

/* Return: the number of pages that a snapshot reports as an error. */
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

/* Secret memory is not in the direct map, and must not reach a device. */
TEST_MIRROR(hostile_input, secret_memory_is_refused)
{
	int ret = map_secret(area->at, SOME);

	if (ret == -ENOSYS)
		SKIP(return, "no CONFIG_SECRETMEM");
	ASSERT_EQ(0, ret);
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ_UNLOCKED,
				       area->at, SOME, area->buffer));
	EXPECT_EQ(SOME, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 2));
	ret = ask_to_device(device, area, 0, SOME);
	EXPECT_TRUE(ret == -EINVAL || ret == -EFAULT || ret == -ENOENT);
	EXPECT_EQ(0, held(device, area));
	/* as for all memory that is not anonymous */
	EXPECT_EQ(-EOPNOTSUPP, make_exclusive(device, area));
	EXPECT_EQ(SOME, out_of_reach(device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(hostile_input, secret_memory_next_to_other_is_refused)
{
	const size_t half = SOME / 2, rest = SOME - half;
	int ret = map_secret(area_page(area, half), rest);

	if (ret == -ENOSYS)
		SKIP(return, "no CONFIG_SECRETMEM");
	ASSERT_EQ(0, ret);
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(rest, contents_wrong(area->buffer + half * PAGE, half, rest,
				       1));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, half, rest, 1));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, held_part(device, area, half, rest));
	EXPECT_EQ(0, out_of_reach(device, area, 0, half));
	EXPECT_EQ(rest, out_of_reach(device, area, half, rest));
	EXPECT_EQ(0, cpu_wrong_part(area, half, rest, 1));

	ASSERT_EQ(0, device_fill_part(device, area, 0, half, 3));
	EXPECT_EQ(half, to_device_part(device, area, 0, half));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, half, 3));
}

TEST_MIRROR(hostile_input, device_node_is_for_root_only)
{
	struct stat status;

	ASSERT_EQ(0, fstat(device->fd, &status));
	EXPECT_EQ(0, status.st_uid);
	EXPECT_EQ(0, status.st_mode & 0077);
}

/* Pages that are 2^64 bytes in all */
#define ALL_PAGES	(~0ULL / PAGE + 1)

/**
 * struct absurd_range - a range that no request accepts
 * @name: for messages
 * @offset: of the address from that of the area
 * @address: the address, instead of @offset
 * @below: pages from the address to the end of all addresses, instead of both
 * @pages: the size
 * @wraps: the size has ALL_PAGES more, this many times
 */
struct absurd_range {
	const char *name;
	uint64_t offset;
	uint64_t address;
	uint64_t below;
	uint64_t pages;
	unsigned int wraps;
};

static const struct absurd_range absurd_ranges[] = {
	{ "no multiple of a page", .offset = 1, .pages = 1 },
	{ "no multiple of a page", .offset = 2040, .pages = 1 },
	{ "no pages", .offset = 0, .pages = 0 },
	{ "a size that overflows", .wraps = 1 },
	{ "a size that overflows to a page", .wraps = 1, .pages = 1 },
	{ "a size that overflows to some", .pages = (1ULL << 63) + SOME },
	{ "all ones", .address = ~0ULL, .pages = ~0ULL },
	{ "all pages", .wraps = 1, .pages = ~0ULL },
	{ "more than an address space", .pages = 1ULL << 40 },
	{ "end at zero", .below = 1, .pages = 1 },
	{ "end behind zero", .below = 1, .pages = 2 },
	{ "behind user addresses", .address = 1ULL << 47, .pages = 1 },
	{ "no canonical address", .address = 1ULL << 60, .pages = 1 },
	{ "kernel address", .address = 0xffff888000000000ULL, .pages = 1 },
	{ "kernel text", .address = 0xffffffff81000000ULL, .pages = 1 },
};

static void *absurd_address(const struct absurd_range *range,
			    const struct area *area)
{
	if (range->address)
		return (void *)range->address;
	if (range->below)
		return (void *)-(range->below * PAGE);
	return area->at + range->offset;
}

/* A snapshot may report an error per page; other requests have to fail. */
static bool answers_absurdity(struct mirror *m, unsigned long request,
			      const void *at, uint64_t pages, void *buffer)
{
	int ret = mirror_call_once(m, request, at, pages, buffer);

	if (ret)
		return true;
	return request == HMM_DMIRROR_SNAPSHOT &&
	       *(unsigned char *)buffer == HMM_DMIRROR_PROT_ERROR;
}

TEST_FILLED(hostile_input, absurd_ranges_are_refused)
{
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(absurd_ranges); i++) {
		const struct absurd_range *range = &absurd_ranges[i];
		uint64_t pages = range->pages + range->wraps * ALL_PAGES;
		void *at = absurd_address(range, area);

		for (j = 0; j < NR_REQUESTS; j++)
			EXPECT_TRUE(answers_absurdity(device, requests[j], at,
						      pages, area->buffer))
				TH_LOG("request %zu: %s", j, range->name);
		mirror_call_once(device, HMM_DMIRROR_CHECK_EXCLUSIVE, at, pages,
				 NULL);
	}
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* Return: the result of a request with the buffer of the area. */
static int request_range(struct mirror *m, size_t i, struct area *area,
			 void *at, uint64_t pages)
{
	return mirror_call_once(m, requests[i], at, pages, area->buffer);
}

TEST_MIRROR(hostile_input, absurd_ranges_have_clear_errors)
{
	void *last = (void *)-PAGE;
	size_t i;

	for (i = 0; i < NR_REQUESTS - 1; i++) {
		EXPECT_EQ(-EINVAL, request_range(device, i, area,
						 area->at + 1, 1));
		EXPECT_EQ(-EINVAL, request_range(device, i, area, area->at, 0));
		EXPECT_EQ(-EINVAL, request_range(device, i, area, last, 2));
		EXPECT_EQ(-EINVAL, request_range(device, i, area, area->at,
						 ALL_PAGES + 1));
	}
}

TEST_MIRROR(hostile_input, bad_buffers_are_refused)
{
	struct area shut;
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
		EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ,
					       area->at, SOME, bad[i]));
		EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_WRITE,
					       area->at, SOME, bad[i]));
		EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_SNAPSHOT,
					       area->at, SOME, bad[i]));
		for (j = 0; j < NR_REQUESTS; j++)
			mirror_call_once(device, requests[j], area->at, SOME,
					 bad[i]);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_MIRROR(hostile_input, read_only_buffer_takes_no_data)
{
	struct area shut;

	ASSERT_EQ(0, area_map(&shut, SOME));
	area_fill(&shut, 2);
	ASSERT_EQ(0, area_protect(&shut, PROT_READ));
	area_fill(area, 1);
	EXPECT_EQ(-EFAULT, mirror_call(device, HMM_DMIRROR_READ, area->at, SOME,
				       shut.at));
	EXPECT_EQ(0, cpu_wrong(&shut, 2));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_WRITE, area->at, SOME,
				 shut.at));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(hostile_input, bad_commands_are_refused)
{
	void *bad[] = { NULL, (void *)-8ULL, (void *)0xffff888000000000ULL,
			(void *)0xffffffff81000000ULL, area->at - 8 };
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		for (j = 0; j < NR_REQUESTS - 1; j++) {
			EXPECT_EQ(-1, ioctl(device->fd, requests[j], bad[i]));
			EXPECT_EQ(EFAULT, errno);
		}
}

TEST_FILLED(hostile_input, command_in_read_only_memory_is_an_error)
{
	struct area page;
	struct hmm_dmirror_cmd cmd = area_command(area);

	ASSERT_EQ(0, area_map(&page, 1));
	memcpy(page.at, &cmd, sizeof(cmd));
	ASSERT_EQ(0, area_protect(&page, PROT_READ));
	EXPECT_EQ(-1, ioctl(device->fd, HMM_DMIRROR_READ, page.at));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_MIRROR(hostile_input, unknown_requests_are_refused)
{
	static const unsigned long unknown[] = {
		_IOWR('H', 0x0f, struct hmm_dmirror_cmd),
		_IOWR('H', 0xff, struct hmm_dmirror_cmd),
		_IOWR('X', 0x00, struct hmm_dmirror_cmd),
		_IO('H', 0x00), 0, ~0UL,
	};
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		ret = mirror_call_once(device, unknown[i], area->at, SOME,
				       area->buffer);
		EXPECT_TRUE(ret == -ENOTTY || ret == -EINVAL);
	}
}

TEST_MIRROR(hostile_input, unknown_flags_are_refused)
{
	int ret = mirror_call_once(device, HMM_DMIRROR_FLAGS, area->at, 0,
				   NULL);

	if (ret == -ENOTTY || ret == -EINVAL)
		SKIP(return, "the driver has no HMM_DMIRROR_FLAGS");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-EINVAL, mirror_call_once(device, HMM_DMIRROR_FLAGS, area->at,
					    2, NULL));
	EXPECT_EQ(-EINVAL, mirror_call_once(device, HMM_DMIRROR_FLAGS, area->at,
					    ~0ULL, NULL));
	area_fill(area, 1);
	EXPECT_EQ(SOME, to_device(device, area));
}

/* The driver overwrites the results. */
TEST_FILLED(hostile_input, results_in_a_command_are_ignored)
{
	struct hmm_dmirror_cmd cmd = area_command(area);

	cmd.cpages = SOME / 2;
	cmd.faults = ~0ULL;
	ASSERT_EQ(0, ioctl(device->fd, HMM_DMIRROR_READ, &cmd));
	EXPECT_EQ(SOME, cmd.cpages);
	EXPECT_GE(SOME, cmd.faults);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
}

TEST_MIRROR(hostile_input, buffer_may_be_in_device_memory)
{
	struct area data;

	ASSERT_EQ(0, area_map(&data, SOME));
	area_fill(area, 1);
	area_fill(&data, 2);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(SOME, to_device(device, &data));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_READ, area->at, SOME,
				 data.at));
	EXPECT_EQ(0, cpu_wrong(&data, 1));
	area_fill(&data, 3);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(SOME, to_device(device, &data));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_WRITE, area->at, SOME,
				 data.at));
	EXPECT_EQ(0, device_wrong(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_FILLED(hostile_input, buffer_may_be_the_range_itself)
{
	size_t i;

	for (i = 0; i < NR_REQUESTS; i++) {
		if (requests[i] == HMM_DMIRROR_SNAPSHOT)
			continue;
		mirror_call_once(device, requests[i], area->at, SOME, area->at);
		EXPECT_EQ(0, cpu_wrong(area, 1));
		ASSERT_EQ(SOME, to_device(device, area));
		mirror_call_once(device, requests[i], area->at, SOME, area->at);
		EXPECT_EQ(0, cpu_wrong(area, 1));
	}
}

TEST_MIRROR(hostile_input, command_may_be_in_device_memory)
{
	struct area page;
	struct hmm_dmirror_cmd *cmd;
	size_t i;

	ASSERT_EQ(0, area_map(&page, 1));
	cmd = (void *)page.at;
	area_fill(area, 1);
	for (i = 0; i < NR_REQUESTS - 1; i++) {
		memset(cmd, 0, sizeof(*cmd));
		cmd->addr = (uintptr_t)area->at;
		cmd->ptr = (uintptr_t)area->buffer;
		cmd->npages = 1;
		contents_fill(area->buffer, 0, 1, 1);
		ASSERT_EQ(1, to_device(device, &page));
		EXPECT_EQ(0, ioctl(device->fd, requests[i], cmd));
	}
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(hostile_input, file_cannot_be_read_or_written)
{
	char byte = 0;

	EXPECT_EQ(-1, read(device->fd, &byte, 1));
	EXPECT_EQ(-1, write(device->fd, &byte, 1));
}

/* The driver may map its own memory, which is mirrored like any other. */
TEST_MIRROR(hostile_input, mappings_of_the_file_do_not_move)
{
	unsigned char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED, device->fd, 0);

	if (at == MAP_FAILED)
		SKIP(return, "the driver has no mmap()");
	contents_fill(at, 0, 2, 1);
	EXPECT_NE(0, mirror_call(device, HMM_DMIRROR_MIGRATE_TO_DEV, at, 2,
				 area->buffer));
	EXPECT_EQ(0, mirror_holds(device, at, 2));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_READ, at, 2,
				 area->buffer));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 2, 1));
	EXPECT_EQ(0, contents_wrong(at, 0, 2, 1));
	/* such a mapping cannot grow, and cannot be very large */
	EXPECT_EQ(MAP_FAILED, mremap(at, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 2048 * PAGE, PROT_READ, MAP_SHARED,
				   device->fd, 0));
}

TEST_FILLED(hostile_input, process_may_have_many_files)
{
	struct mirror many[40];
	size_t i;

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

#define CALLERS	4
#define CALLS	10

/* A thread that uses its part of the area. All share one file. */
struct caller {
	pthread_t thread;
	struct mirror m;
	struct area part;
	struct area whole;
	atomic_bool *over;
	uint64_t random;
	long wrong;
};

/* Only this thread writes its part. Others may move it. */
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
		make_exclusive(&c->m, &c->part);
		c->wrong += !!device_wrong(&c->m, &c->part, contents + 1);
	}
	return NULL;
}

/* Requests that do not change contents, on the whole area. */
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

		mirror_call_once(&c->m, harmless[i], area_page(&c->whole, page),
				 n, c->whole.buffer);
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

TEST_MIRROR(hostile_input, calls_on_one_file_may_overlap)
{
	struct caller callers[CALLERS + 2];
	atomic_bool over = false;
	unsigned int i;

	for (i = 0; i < CALLERS + 2; i++) {
		caller_init(&callers[i], device, area, i, &over);
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
