/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For the tests of a mirrored address space (hmm-tests.c): the dummy device
 * (lib/test_hmm.c), memory whose contents tell where they belong, what the
 * kernel says of a page, and other processes.
 *
 * Functions return 0 or a count, and -errno or -1 where something failed; they
 * judge nothing. Where a page is, is asked of the kernel each time.
 *
 * Some answers are a matter of chance for a moment: whoever holds a reference
 * to a page, if only to look at it, keeps the page from moving. Such things are
 * tried TRIES times before the answer counts.
 */
#ifndef HMM_TEST_COMMON_H
#define HMM_TEST_COMMON_H

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "hmm_race_common.h"

#define TRIES		100
#define TRY_AGAIN_MS	10

/* The size of a page, which not every processor has the same of. */
static size_t page_bytes;

static void __attribute__((constructor)) find_page_size(void)
{
	page_bytes = sysconf(_SC_PAGESIZE);
}

#define PAGE		page_bytes
#define MOST_PAGE	65536UL
#define WORDS		(PAGE / sizeof(uint64_t))

/* With pages of 4 KiB; where huge pages are others, their tests are skipped. */
#define HUGE_PAGES	512UL
#define HUGE_SIZE	(HUGE_PAGES * PAGE)

/* Try until @condition holds, or TRIES times. */
#define eventually(condition) ({					\
	unsigned int __tries = TRIES;					\
	bool __holds;							\
	while (!(__holds = (condition)) && --__tries)			\
		race_pause_elsewhere(TRY_AGAIN_MS);			\
	__holds;							\
})

/*
 * The dummy device
 */

/**
 * struct mirror - a file of a dummy device: the address space of its opener
 * @fd: the file
 * @coherent: the device's memory is mapped by the CPU, too
 * @pages: what the last call was done with
 * @faults: times that the device had to fault in the last call
 */
struct mirror {
	int fd;
	bool coherent;
	uint64_t pages;
	uint64_t faults;
};

/* Nodes 0 and 1 are device-private, 2 and 3 are device-coherent. */
static inline int mirror_open(struct mirror *m, unsigned int nr)
{
	m->coherent = nr >= 2;
	m->fd = race_open_device(nr);
	return m->fd < 0 ? -errno : 0;
}

static inline void mirror_close(struct mirror *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
}

static inline int mirror_call_once(struct mirror *m, unsigned long request,
				   const void *at, size_t pages, void *buffer)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)at,
		.ptr = (uintptr_t)buffer,
		.npages = pages,
	};

	if (ioctl(m->fd, request, &cmd))
		return -errno;
	m->pages = cmd.cpages;
	m->faults = cmd.faults;
	return 0;
}

/* A device that is kept from its work by others says EBUSY. */
static inline int mirror_call(struct mirror *m, unsigned long request,
			      const void *at, size_t pages, void *buffer)
{
	unsigned int tries = TRIES;
	int ret;

	while ((ret = mirror_call_once(m, request, at, pages, buffer))) {
		if ((ret != -EBUSY && ret != -EINTR) || !--tries)
			break;
		race_pause_ms(TRY_AGAIN_MS);
	}
	return ret;
}

/* What the snapshot says of the page at @at, or -errno. */
static inline int mirror_place(struct mirror *m, const void *at)
{
	unsigned char place = 0;
	int ret = mirror_call(m, HMM_DMIRROR_SNAPSHOT, at, 1, &place);

	return ret ? ret : place;
}

/* The kind of memory, without the permissions and the size of the mapping. */
static inline int place_kind(int place)
{
	return place < 0 || place == HMM_DMIRROR_PROT_ERROR ? place :
	       place & 0x70;
}

static inline int mirror_local(const struct mirror *m)
{
	return m->coherent ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
			     HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
}

/* How many of the pages are in the memory of this device, or -errno. */
static inline long mirror_holds(struct mirror *m, const void *at, size_t pages)
{
	unsigned char *places = calloc(pages, 1);
	long held = 0;
	int ret;
	size_t i;

	ret = mirror_call(m, HMM_DMIRROR_SNAPSHOT, at, pages, places);
	for (i = 0; i < pages; i++)
		held += place_kind(places[i]) == mirror_local(m);
	free(places);
	return ret ? ret : held;
}

/*
 * Memory
 */

/**
 * struct area - memory that the device is to work on
 * @at: the memory, with a page without access before and behind it
 * @buffer: as much again, for what the device reads and writes
 * @pages: the size
 */
struct area {
	unsigned char *at;
	unsigned char *buffer;
	size_t pages;
};

/* Addresses of memory that huge pages fit into, if it is large enough. */
static inline unsigned char *area_reserve(size_t pages)
{
	size_t align = pages >= HUGE_PAGES ? HUGE_SIZE : PAGE;
	size_t size = pages * PAGE;
	unsigned char *at;

	at = mmap(NULL, size + 2 * align + PAGE, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	return (void *)(((uintptr_t)at + align) & ~(align - 1));
}

static inline int area_map_file(struct area *area, size_t pages, int prot,
				int flags, int fd)
{
	size_t size = pages * PAGE;
	void *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *at = area_reserve(pages);

	if (!at || buffer == MAP_FAILED)
		return -1;
	area->at = mmap(at, size, prot, flags | MAP_FIXED, fd, 0);
	area->buffer = buffer;
	area->pages = pages;
	return area->at == MAP_FAILED ? -1 : 0;
}

static inline int area_map(struct area *area, size_t pages)
{
	return area_map_file(area, pages, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static inline unsigned char *area_page(const struct area *area, size_t page)
{
	return area->at + page * PAGE;
}

/*
 * Contents have a number, and every word depends on its place in the area, so
 * that a page that ends up elsewhere is wrong. Number 0 is zeroes.
 */
static inline uint64_t contents_word(uint64_t contents, size_t page, size_t i)
{
	return contents ? race_mix((contents << 40) + page * WORDS + i) : 0;
}

static inline void contents_fill(void *to, size_t page, size_t pages,
				 uint64_t contents)
{
	uint64_t *word = to;
	size_t i;

	for (i = 0; i < pages * WORDS; i++)
		word[i] = contents_word(contents, page, i);
}

/* How many of the pages at @data do not have the contents. */
static inline long contents_wrong(const void *data, size_t page, size_t pages,
				  uint64_t contents)
{
	const uint64_t *word = data;
	long wrong = 0;
	size_t i, j;

	for (i = 0; i < pages; i++, word += WORDS) {
		for (j = 0; j < WORDS; j++)
			if (word[j] != contents_word(contents, page + i, j))
				break;
		wrong += j < WORDS;
	}
	return wrong;
}

static inline void area_fill_part(struct area *area, size_t page, size_t pages,
				  uint64_t contents)
{
	contents_fill(area_page(area, page), page, pages, contents);
}

static inline void area_fill(struct area *area, uint64_t contents)
{
	area_fill_part(area, 0, area->pages, contents);
}

/* How many pages are wrong for the CPU. */
static inline long cpu_wrong_part(const struct area *area, size_t page,
				  size_t pages, uint64_t contents)
{
	return contents_wrong(area_page(area, page), page, pages, contents);
}

static inline long cpu_wrong(const struct area *area, uint64_t contents)
{
	return cpu_wrong_part(area, 0, area->pages, contents);
}

/* How many pages are wrong for the device, or -errno. */
static inline long device_wrong_part(struct mirror *m, struct area *area,
				     size_t page, size_t pages,
				     uint64_t contents)
{
	int ret;

	memset(area->buffer, 0x5a, pages * PAGE);
	ret = mirror_call(m, HMM_DMIRROR_READ, area_page(area, page), pages,
			  area->buffer);
	return ret ? ret : contents_wrong(area->buffer, page, pages, contents);
}

static inline long device_wrong(struct mirror *m, struct area *area,
				uint64_t contents)
{
	return device_wrong_part(m, area, 0, area->pages, contents);
}

static inline int device_fill_part(struct mirror *m, struct area *area,
				   size_t page, size_t pages, uint64_t contents)
{
	contents_fill(area->buffer, page, pages, contents);
	return mirror_call(m, HMM_DMIRROR_WRITE, area_page(area, page), pages,
			   area->buffer);
}

static inline int device_fill(struct mirror *m, struct area *area,
			      uint64_t contents)
{
	return device_fill_part(m, area, 0, area->pages, contents);
}

/*
 * Migration
 */

/* Ask once. What it moves, and whether a part of it counts, is looked up. */
static inline void ask_to_device(struct mirror *m, struct area *area,
				 size_t page, size_t pages)
{
	mirror_call(m, HMM_DMIRROR_MIGRATE_TO_DEV, area_page(area, page), pages,
		    area->buffer);
}

static inline long held_part(struct mirror *m, const struct area *area,
			     size_t page, size_t pages)
{
	return mirror_holds(m, area_page(area, page), pages);
}

static inline long held(struct mirror *m, const struct area *area)
{
	return held_part(m, area, 0, area->pages);
}

/* Return: how many of the pages are there. */
static inline long to_device_part(struct mirror *m, struct area *area,
				  size_t page, size_t pages)
{
	long there = 0;

	eventually((ask_to_device(m, area, page, pages),
		    (there = held_part(m, area, page, pages)) == (long)pages));
	return there;
}

static inline long to_device(struct mirror *m, struct area *area)
{
	return to_device_part(m, area, 0, area->pages);
}

/* Return: how many of the pages are still in the device, or -errno. */
static inline long to_system_part(struct mirror *m, struct area *area,
				  size_t page, size_t pages)
{
	long there = 0;
	int ret = 0;

	eventually((ret = mirror_call(m, HMM_DMIRROR_MIGRATE_TO_SYS,
				      area_page(area, page), pages,
				      area->buffer)) ||
		   !(there = held_part(m, area, page, pages)));
	return ret ? ret : there;
}

static inline long to_system(struct mirror *m, struct area *area)
{
	return to_system_part(m, area, 0, area->pages);
}

/*
 * What the kernel says of a page
 */

#define PAGEMAP_PRESENT		(1ULL << 63)
#define PAGEMAP_SWAP		(1ULL << 62)
#define PAGEMAP_UFFD_WP		(1ULL << 57)
#define PAGEMAP_EXCLUSIVE	(1ULL << 56)
#define PAGEMAP_SOFT_DIRTY	(1ULL << 55)
#define PAGEMAP_PFN		((1ULL << 55) - 1)

/* The entry of /proc/PID/pagemap; all ones if there is none. */
static inline uint64_t pagemap_of(pid_t pid, const void *at)
{
	uint64_t entry = ~0ULL;
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, &entry, sizeof(entry),
			    (uintptr_t)at / PAGE * sizeof(entry)) !=
	    sizeof(entry))
		entry = ~0ULL;
	if (fd >= 0)
		close(fd);
	return entry;
}

/* How many pages of the area have one of these bits. */
static inline long pagemap_count(const struct area *area, uint64_t bits)
{
	long count = 0;
	size_t i;

	for (i = 0; i < area->pages; i++)
		count += !!(pagemap_of(getpid(), area_page(area, i)) & bits);
	return count;
}

/* The field of /proc/self/smaps for the mapping at @at, in pages; or -1. */
static inline long smaps_pages(const void *at, const char *field)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	size_t length = strlen(field);
	bool here = false;
	char line[512];
	long kib = -1;

	while (file && kib < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)at && (uintptr_t)at < end;
		else if (here && !strncmp(line, field, length) &&
			 line[length] == ':')
			kib = strtol(line + length + 1, NULL, 10);
	}
	if (file)
		fclose(file);
	return kib < 0 ? -1 : kib / (long)(PAGE >> 10);
}

static inline bool thp_allowed(void)
{
	char mode[64] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");

	if (file && !fgets(mode, sizeof(mode), file))
		mode[0] = 0;
	if (file)
		fclose(file);
	return mode[0] && !strstr(mode, "[never]");
}

/*
 * Accesses of the CPU that may fail
 */

static sigjmp_buf cpu_access_over;

static inline void cpu_access_failed(int number)
{
	siglongjmp(cpu_access_over, number);
}

enum cpu_access { CPU_READ, CPU_WRITE };

/* Return: 0, or the signal that it got. A write leaves the byte as it is. */
static inline int cpu_try(void *at, enum cpu_access access)
{
	struct sigaction action = { .sa_handler = cpu_access_failed };
	struct sigaction bus, segv;
	volatile unsigned char *byte = at;
	int number;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	number = sigsetjmp(cpu_access_over, 1);
	if (!number) {
		unsigned char value = *byte;

		if (access == CPU_WRITE)
			*byte = value;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return number;
}

/*
 * Other processes
 */

/**
 * struct peer - the other one of a pair of processes
 * @pid: the child; 0 in the child itself
 * @sock: a byte tells the other one to go on
 */
struct peer {
	pid_t pid;
	int sock;
};

static inline int peer_fork(struct peer *peer)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	peer->pid = fork();
	peer->sock = pair[!peer->pid];
	close(pair[!!peer->pid]);
	return peer->pid < 0 ? -1 : 0;
}

static inline bool peer_tell(struct peer *peer)
{
	return send(peer->sock, "", 1, MSG_NOSIGNAL) == 1;
}

/* Return: false if the other one has gone. */
static inline bool peer_hear(struct peer *peer)
{
	char byte;

	return recv(peer->sock, &byte, 1, 0) == 1;
}

/* The parent waits for the child. Return: its status as of waitpid(). */
static inline int peer_end(struct peer *peer)
{
	int status = -1;

	close(peer->sock);
	waitpid(peer->pid, &status, 0);
	return status;
}

#endif /* HMM_TEST_COMMON_H */
