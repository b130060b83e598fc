/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions that the tests of device memory share: random numbers, notes and
 * findings, waiting, the dummy device (lib/test_hmm.c), files of sysfs and
 * procfs, and swap on compressed memory.
 */
#ifndef HMM_RACE_COMMON_H
#define HMM_RACE_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <lib/test_hmm_uapi.h>

/* Advice that older headers of the C library lack */
#ifndef MADV_FREE
#define MADV_FREE		8
#endif
#ifndef MADV_COLD
#define MADV_COLD		20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif

/* Random numbers that a seed repeats */

/* A permutation of 64-bit numbers that leaves no pattern. */
uint64_t race_mix(uint64_t x);
uint32_t race_below(uint64_t *state, uint32_t limit);

/*
 * A line of comment in one write, which is safe in a child of a process with
 * threads. A finding is a line that scripts look for: "# FINDING: ...". Both
 * return false if the line could not be written.
 */
__attribute__((format(printf, 1, 2)))
bool race_note(const char *format, ...);
__attribute__((format(printf, 1, 2)))
bool race_finding(const char *format, ...);

/* Waiting */

void race_pause_ms(unsigned int ms);
void race_pause_elsewhere(unsigned int ms);

/* Seconds of a clock that only goes forward. */
time_t race_now(void);

/*
 * Wait until @condition holds. The limit only ends a hang, so it must be longer
 * than any machine needs. Return: whether the condition holds.
 */
#define race_wait_for(condition, seconds) ({				\
	time_t race_end_ = race_now() + (time_t)(seconds);		\
	bool race_holds_;						\
									\
	while (!(race_holds_ = (condition)) && race_now() < race_end_)	\
		race_pause_ms(10);					\
	race_holds_;							\
})

bool race_wait_child(pid_t pid, unsigned long seconds, int *status);

/* Memory */

size_t race_huge_size(void);
void race_note_huge_size(size_t size);
char *race_reserve(size_t size, size_t align, int prot);

/* The dummy device */

int race_open_device(unsigned int nr);
int race_device(int fd, unsigned long request, void *addr, size_t pages,
		void *buffer);
int race_device_counted(int fd, unsigned long request, void *addr,
			size_t pages, void *buffer, size_t *done);
int race_release_device(unsigned int nr, unsigned long seconds);

/* In a snapshot: the kind of the memory */
#define RACE_DEVICE_MASK	0xf0

size_t race_count_pages(int fd, void *addr, size_t pages, unsigned char kind,
			unsigned char *seen);

/* Pages in the memory of one device, and those that it may write to. */
struct race_local {
	size_t pages;
	size_t writable;
};

struct race_local race_local_pages(int fd, void *addr, size_t pages,
				   unsigned char *seen);

/* Files */

int race_write_file(const char *path, const char *text);
long race_read_number(const char *path, const char *key);

#define RACE_KSM		"/sys/kernel/mm/ksm/"

int race_run_ksm(const char *run);

/* Swap */

#define RACE_SWAP_DEVICE	"/dev/zram0"
#define RACE_SWAP_SIZE		(256UL << 20)

bool race_swap_exists(void);
const char *race_swap_begin(bool *ours);
void race_swap_end(bool ours);

#endif /* HMM_RACE_COMMON_H */
