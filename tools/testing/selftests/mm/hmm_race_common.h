/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For the race tests of device memory: random numbers that a seed repeats,
 * words that tell where and when they were written, the dummy device
 * (lib/test_hmm.c), files of sysfs and procfs, and swap on compressed memory.
 *
 * How a reader knows what is right
 *
 *   Memory is divided into blocks of pages, each with a record. Whoever changes
 *   the contents of a block takes its next number, and says beforehand what
 *   that change may leave there: words of the number, zeroes, or one other
 *   text. "floor" is the last change that is known to have left nothing older.
 *   A reader takes the floor before and the last number that was given out
 *   after; only what those changes leave is legal. Changes of one block follow
 *   each other, which is for their makers to see to; readers are free.
 *
 *   Who takes a mapping away for a while bars the block: what goes wrong for
 *   others in the meantime has its cause in that.
 *
 *   A word has 32 bits, for that is what the dummy driver copies at once when
 *   it is compiled for size. Who copies less at once (read(), write(), a disk)
 *   can tear it, so a word may be made of bytes of several legal ones.
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
#include <time.h>
#include <unistd.h>

#include <lib/test_hmm_uapi.h>

/* Advice that older headers of the C library do not have */
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

/*
 * A line of comment, in one write: that is safe in a child of a process with
 * threads. False if it could not be written.
 */
__attribute__((format(printf, 1, 2)))
static inline bool race_note(const char *format, ...)
{
	char text[512] = "# ";
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text + 2, sizeof(text) - 2, format, args) + 2;
	va_end(args);
	if (length > (int)sizeof(text) - 1)
		length = sizeof(text) - 1;
	return write(STDOUT_FILENO, text, length) >= 0;
}

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

static inline void race_pause_ms(unsigned int ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

/*
 * Wait, and continue on another CPU. Pages stay in batches of the CPU that
 * touched them until they are put on a list of the LRU, where reclaim and
 * migration find them, and madvise() empties only those of the CPU that it runs
 * on: what fails for that may go on failing there.
 */
static inline void race_pause_elsewhere(unsigned int ms)
{
	cpu_set_t all, next;
	int cpu = sched_getcpu();

	race_pause_ms(ms);
	if (cpu < 0 || sched_getaffinity(0, sizeof(all), &all))
		return;
	do
		cpu = (cpu + 1) % CPU_SETSIZE;
	while (!CPU_ISSET(cpu, &all));
	CPU_ZERO(&next);
	CPU_SET(cpu, &next);
	sched_setaffinity(0, sizeof(next), &next);
	sched_setaffinity(0, sizeof(all), &all);
}

/* What a change may leave in a block. */
#define RACE_LEAVES_WORDS	1
#define RACE_LEAVES_ZERO	2
#define RACE_LEAVES_OTHER	4

/* So many changes are remembered. */
#define RACE_RING		512

/**
 * struct race_record - what has happened to a block
 * @begun: number of the last change
 * @floor: the last change that nothing older can be seen after
 * @bars: how often the mapping was taken away
 * @unbars: how often it came back
 * @leaves: what the last changes may have left
 */
struct race_record {
	_Atomic uint32_t begun;
	_Atomic uint32_t floor;
	_Atomic uint32_t bars;
	_Atomic uint32_t unbars;
	_Atomic uint8_t leaves[RACE_RING];
};

/* What a reader notes: the first two before, the last one after. */
struct race_window {
	uint32_t floor;
	uint32_t unbars;
	uint32_t begun;
};

/**
 * struct race_page - what a page's words are made of
 * @id: no other page has it
 * @other: key of the one other text that changes may leave
 */
struct race_page {
	uint64_t id;
	uint64_t other;
};

/*
 * A word is the low bits of the number of its change, and a checksum that knows
 * all of it, the page and the word. Never zero.
 */
#define RACE_NUMBER_BITS	10
#define RACE_NUMBER_MASK	((1U << RACE_NUMBER_BITS) - 1)

static inline uint64_t race_key(uint64_t id, uint32_t number)
{
	return race_mix(id ^ number);
}

static inline uint32_t race_word(uint64_t key, uint32_t number,
				 unsigned int word)
{
	uint32_t sum = (key + word * 0x9e3779b97f4a7c15ULL) >> 43;

	return number << (32 - RACE_NUMBER_BITS) | sum << 1 | 1;
}

/* The last number before or at @last that has the bits of the word. */
static inline uint32_t race_number(uint32_t value, uint32_t last)
{
	uint32_t low = value >> (32 - RACE_NUMBER_BITS);

	return last - ((last - low) & RACE_NUMBER_MASK);
}

/* With the key of a text and number 0, or of a page and its change. */
static inline void race_fill(uint32_t *words, size_t nr, uint64_t key,
			     uint32_t number)
{
	for (size_t i = 0; i < nr; i++)
		words[i] = race_word(key, number, i);
}

static inline uint32_t race_change_begin(struct race_record *record,
					 uint8_t leaves)
{
	uint32_t number = record->begun + 1;

	record->leaves[number % RACE_RING] = leaves;
	record->begun = number;
	return number;
}

static inline void race_change_end(struct race_record *record)
{
	record->floor = record->begun;
}

/* Changes that leave older ones legal must not pile up. */
static inline bool race_window_is_wide(const struct race_record *record)
{
	return record->begun - record->floor > RACE_RING / 4;
}

static inline struct race_window
race_window_open(const struct race_record *record)
{
	return (struct race_window) {
		.floor = record->floor,
		.unbars = record->unbars,
	};
}

static inline void race_window_close(struct race_window *win,
				     const struct race_record *record)
{
	win->begun = record->begun;
}

static inline void race_bar(struct race_record *record)
{
	record->bars++;
}

static inline void race_unbar(struct race_record *record)
{
	record->unbars++;
}

/* Has it been barred at any time since the window was opened? */
static inline bool race_was_barred(const struct race_window *win,
				   const struct race_record *record)
{
	return record->bars != win->unbars;
}

static inline bool race_some_leaves(const struct race_record *record,
				    const struct race_window *win, uint8_t what)
{
	for (uint32_t n = win->floor; n != win->begun + 1; n++)
		if (record->leaves[n % RACE_RING] & what)
			return true;
	return false;
}

static inline bool race_is_legal(const struct race_record *record,
				 const struct race_window *win,
				 const struct race_page *page,
				 unsigned int word, uint32_t value)
{
	uint32_t number = race_number(value, win->begun);

	if (!value)
		return race_some_leaves(record, win, RACE_LEAVES_ZERO);
	if (value == race_word(page->other, 0, word))
		return race_some_leaves(record, win, RACE_LEAVES_OTHER);
	return win->begun - number <= win->begun - win->floor &&
	       (record->leaves[number % RACE_RING] & RACE_LEAVES_WORDS) &&
	       value == race_word(race_key(page->id, number), number, word);
}

static inline bool race_byte_fits(uint32_t value, uint32_t word, int byte)
{
	return (uint8_t)(value >> 8 * byte) == (uint8_t)(word >> 8 * byte);
}

static inline bool race_byte_is_legal(const struct race_record *record,
				      const struct race_window *win,
				      const struct race_page *page,
				      unsigned int word, uint32_t value,
				      int byte)
{
	uint32_t other = race_word(page->other, 0, word);

	for (uint32_t n = win->floor; n != win->begun + 1; n++) {
		uint8_t leaves = record->leaves[n % RACE_RING];
		uint32_t whole = race_word(race_key(page->id, n), n, word);

		if ((leaves & RACE_LEAVES_WORDS &&
		     race_byte_fits(value, whole, byte)) ||
		    (leaves & RACE_LEAVES_ZERO &&
		     race_byte_fits(value, 0, byte)) ||
		    (leaves & RACE_LEAVES_OTHER &&
		     race_byte_fits(value, other, byte)))
			return true;
	}
	return false;
}

static inline bool race_is_torn(const struct race_record *record,
				const struct race_window *win,
				const struct race_page *page,
				unsigned int word, uint32_t value)
{
	for (int byte = 0; byte < 4; byte++)
		if (!race_byte_is_legal(record, win, page, word, value, byte))
			return false;
	return true;
}

enum race_verdict {
	RACE_RIGHT,
	RACE_WRONG,
	RACE_TOO_LATE,	/* the record is of other changes already */
};

/* @where is set to the first word that is wrong. */
static inline enum race_verdict
race_check_page(const struct race_record *record,
		const struct race_window *win, const struct race_page *page,
		const uint32_t *words, size_t nr, size_t *where)
{
	uint32_t number = race_number(words[0], win->begun);
	uint64_t key = race_key(page->id, number);
	bool whole = race_is_legal(record, win, page, 0, words[0]);

	for (size_t i = 0; i < nr; i++) {
		/* mostly all of it is of one change */
		if (whole && words[i] == race_word(key, number, i))
			continue;
		if (race_is_legal(record, win, page, i, words[i]) ||
		    race_is_torn(record, win, page, i, words[i]))
			continue;
		*where = i;
		return record->begun - win->floor >= RACE_RING ?
		       RACE_TOO_LATE : RACE_WRONG;
	}
	return RACE_RIGHT;
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
