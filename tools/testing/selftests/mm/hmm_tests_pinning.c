// SPDX-License-Identifier: GPL-2.0-only
/* Pins: a pinned page does not move, private device memory is never pinned. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/uio.h>

#include <mm/gup_test.h>
#include "hmm_tests.h"

MIRROR_FIXTURE(pinning)

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

/* Return: the number of pinned pages with other contents, read by the pin. */
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
	check_pinned(_metadata, device, area, place, flags)

TEST_MIRROR(pinning, pinned_memory_stays)
{
	CHECK_PINNED(IN_SYSTEM, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

TEST_MIRROR(pinning, memory_pinned_fast_stays)
{
	CHECK_PINNED(IN_SYSTEM, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

TEST_MIRROR(pinning, longterm_pin_brings_device_memory_back)
{
	CHECK_PINNED(IN_DEVICE, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

TEST_MIRROR(pinning, longterm_fast_pin_brings_device_memory_back)
{
	CHECK_PINNED(IN_DEVICE, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

TEST_MIRROR(pinning, longterm_read_pin_brings_device_memory_back)
{
	CHECK_PINNED(IN_DEVICE, 0);
}

TEST_MIRROR(pinning, short_pin_brings_private_memory_back)
{
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
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, ioctl(gup, PIN_BASIC_TEST, &args));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(gup);
}

/* The references of a pipe keep pages from moving, like pins. */
TEST_ON_DEVICE(pinning, memory_in_a_pipe_stays)
{
	struct iovec page = { .iov_base = area->at, .iov_len = PAGE };
	int pair[2];

	ASSERT_EQ(0, pipe(pair));
	ASSERT_EQ(PAGE, vmsplice(pair[1], &page, 1, 0));
	EXPECT_EQ(left_after(device, 1), held(device, area));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(left_after(device, 1), held(device, area));
	ask_to_system(device, area, 0, SOME);
	EXPECT_EQ(device->coherent, held_part(device, area, 0, 1));
	ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, 1, 1));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* Add a zram disk. Return: its number, or -errno. */
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

TEST_MIRROR(pinning, direct_io_works_on_device_memory)
{
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
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(SOME * PAGE, pwrite(disk, area->at, SOME * PAGE, 0));
	EXPECT_EQ(left_after(device, SOME), held(device, area));

	area_fill(area, 2);
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(SOME * PAGE, pread(disk, area->at, SOME * PAGE, 0));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(disk);
	disk_end(nr);
}
