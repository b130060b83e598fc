/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For the race tests of device memory: random numbers that a seed repeats, the
 * dummy device (lib/test_hmm.c), files of sysfs and procfs, and swap on
 * compressed memory.
 */
#ifndef HMM_RACE_COMMON_H
#define HMM_RACE_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <unistd.h>

#include <lib/test_hmm_uapi.h>

/* A permutation of 64-bit numbers that leaves no pattern. */
static inline uint64_t race_mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static inline uint32_t race_below(uint64_t *state, uint32_t limit)
{
	*state += 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(race_mix(*state) >> 33) % limit;
}

static inline int race_open_device(unsigned int nr)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/hmm_dmirror%u", nr);
	return open(path, O_RDWR);
}

/* @buffer has room for @pages pages. Return: 0, or -1 with errno. */
static inline int race_device(int fd, unsigned long request, void *addr,
			      size_t pages, void *buffer)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)addr,
		.ptr = (uintptr_t)buffer,
		.npages = pages,
	};
	int ret;

	do {
		ret = ioctl(fd, request, &cmd);
	} while (ret && errno == EINTR);
	return ret ? -1 : 0;
}

#define RACE_DEVICE_MASK	0xf0	/* of a snapshot: whose memory it is */

/*
 * How many of the pages are in device memory of this kind, for the device of
 * @fd: HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL, for one. @seen has a byte a page.
 */
static inline size_t race_count_pages(int fd, void *addr, size_t pages,
				      unsigned char kind, unsigned char *seen)
{
	size_t found = 0;

	if (race_device(fd, HMM_DMIRROR_SNAPSHOT, addr, pages, seen))
		return 0;
	for (size_t i = 0; i < pages; i++)
		found += (seen[i] & RACE_DEVICE_MASK) == kind;
	return found;
}

static inline int race_write_file(const char *path, const char *text)
{
	size_t size = strlen(text);
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, size) == (ssize_t)size;
	int error = errno;

	if (fd >= 0)
		close(fd);
	errno = error;
	return ok ? 0 : -1;
}

/* The number of the line "KEY NUMBER"; with no key the first. -1 if none. */
static inline long race_read_number(const char *path, const char *key)
{
	size_t length = key ? strlen(key) : 0;
	char line[512];
	long value = -1;
	FILE *file = fopen(path, "r");

	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!key || (!strncmp(line, key, length) &&
			     strchr(" :\t", line[length])))
			value = strtol(line + length + (key ? 1 : 0), NULL, 10);
	fclose(file);
	return value;
}

/*
 * Swap on compressed memory, where the system has none of its own. What is
 * made here is taken down again by race_swap_end().
 */

#define RACE_SWAP_DEVICE	"/dev/zram0"
#define RACE_SWAP_SIZE		(256UL << 20)

static inline bool race_swap_exists(void)
{
	char line[256];
	int lines = 0;
	FILE *file = fopen("/proc/swaps", "r");

	while (file && fgets(line, sizeof(line), file))
		lines++;
	if (file)
		fclose(file);
	return lines > 1;
}

/* One page: version and index of the last page at 1 KiB, then the magic. */
static inline bool race_swap_format(void)
{
	size_t size = sysconf(_SC_PAGESIZE);
	int fd = open(RACE_SWAP_DEVICE, O_WRONLY);
	uint32_t info[2] = { 1, RACE_SWAP_SIZE / size - 1 };
	bool ok = fd >= 0 &&
		  pwrite(fd, info, sizeof(info), 1024) == sizeof(info) &&
		  pwrite(fd, "SWAPSPACE2", 10, size - 10) == 10 && !fsync(fd);

	if (fd >= 0)
		close(fd);
	return ok;
}

static inline void race_swap_end(bool ours)
{
	if (!ours)
		return;
	swapoff(RACE_SWAP_DEVICE);
	race_write_file("/sys/block/zram0/reset", "1");
}

/* Return: NULL if there is swap now, else why there is none. */
static inline const char *race_swap_begin(bool *ours)
{
	char size[24];

	*ours = false;
	if (race_swap_exists())
		return NULL;
	if (access(RACE_SWAP_DEVICE, W_OK))
		return "no swap, and no " RACE_SWAP_DEVICE;
	snprintf(size, sizeof(size), "%lu", RACE_SWAP_SIZE);
	if (race_write_file("/sys/block/zram0/disksize", size))
		return "no swap, and " RACE_SWAP_DEVICE " takes no size";
	*ours = true;
	if (race_swap_format() && !swapon(RACE_SWAP_DEVICE, 0))
		return NULL;
	race_swap_end(true);
	*ours = false;
	return "no swap, and " RACE_SWAP_DEVICE " cannot be made one";
}

#endif /* HMM_RACE_COMMON_H */
