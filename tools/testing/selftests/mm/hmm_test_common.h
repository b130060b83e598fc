/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Common code of the tests of a mirrored address space: the dummy device
 * (lib/test_hmm.c), memory whose contents depend on the address, the state
 * that the kernel reports for a page, userfaultfd, and other processes.
 *
 * Functions return 0 or a count, or -errno or -1 on failure. The tests decide
 * what a result means. The place of a page is read from the kernel each time.
 *
 * A temporary reference to a page keeps it from moving, even one that is taken
 * only to look at the page. So operations that move pages are tried TRIES times
 * before their result counts.
 */
#ifndef HMM_TEST_COMMON_H
#define HMM_TEST_COMMON_H

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "hmm_race_common.h"

#define TRIES		100
#define TRY_AGAIN_MS	10

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#endif

/* The size of a page, and of a PMD-mapped THP; 0 without THP support. */
extern size_t page_bytes;
extern size_t thp_bytes;

#define PAGE		page_bytes
#define MAX_PAGE	65536UL
#define WORDS		(PAGE / sizeof(uint64_t))
#define THP_PAGES	(thp_bytes / PAGE)

/* Memory of a device with coherent memory. */
#define DEVICE_BYTES	(256UL << 20)

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
 * struct mirror - an open file of a dummy device
 * @fd: the file; the device mirrors the address space of its opener
 * @coherent: the CPU can access the memory of the device
 * @pages: number of pages that the last call processed
 * @faults: number of faults of the device in the last call
 */
struct mirror {
	int fd;
	bool coherent;
	uint64_t pages;
	uint64_t faults;
};

/* Nodes 0 and 1 are device-private, 2 and 3 are device-coherent. */
int mirror_open(struct mirror *m, unsigned int nr);
void mirror_close(struct mirror *m);

int mirror_call_once(struct mirror *m, unsigned long request, const void *at,
		     size_t pages, void *buffer);

/* The same, and try again while the device reports EBUSY or EINTR. */
int mirror_call(struct mirror *m, unsigned long request, const void *at,
		size_t pages, void *buffer);

/* The snapshot's entry of the page at @at, or -errno. */
int mirror_place(struct mirror *m, const void *at);

/* The entry for local memory of this device. */
int mirror_local(const struct mirror *m);

/* Return: the number of pages in the memory of this device, or -errno. */
long mirror_holds(struct mirror *m, const void *at, size_t pages);

/*
 * Memory
 */

/**
 * struct area - memory for the device to work on
 * @at: the memory, with an inaccessible page before and after it
 * @buffer: the same size, for data that the device reads and writes
 * @pages: the size
 */
struct area {
	unsigned char *at;
	unsigned char *buffer;
	size_t pages;
};

/* Reserve addresses, aligned to a THP if one fits. */
unsigned char *area_reserve(size_t pages);

int area_map_file(struct area *area, size_t pages, int prot, int flags, int fd);
int area_map(struct area *area, size_t pages);

static inline size_t area_size(const struct area *area)
{
	return area->pages * PAGE;
}

static inline unsigned char *area_page(const struct area *area, size_t page)
{
	return area->at + page * PAGE;
}

/* These return 0 or -errno. */
int area_advise_part(const struct area *area, size_t page, size_t pages,
		     int advice);
int area_protect_part(const struct area *area, size_t page, size_t pages,
		      int prot);
int area_unmap(const struct area *area);

/* Move the mapping to the addresses of @to, see mremap(2). */
int area_move(const struct area *area, const struct area *to);

static inline int area_advise(const struct area *area, int advice)
{
	return area_advise_part(area, 0, area->pages, advice);
}

/* Fill with contents 1, and free lazily. Return: false on failure. */
bool area_free_lazily(struct area *area);

static inline int area_protect(const struct area *area, int prot)
{
	return area_protect_part(area, 0, area->pages, prot);
}

/*
 * Contents have a number. Each word depends on its position in the area, so
 * that a page at the wrong address is found. Number 0 is zeroes.
 */
uint64_t contents_word(uint64_t contents, size_t page, size_t i);
void contents_fill(void *to, size_t page, size_t pages, uint64_t contents);

/* Return: the number of pages at @data with other contents. */
long contents_wrong(const void *data, size_t page, size_t pages,
		    uint64_t contents);

void area_fill_part(struct area *area, size_t page, size_t pages,
		    uint64_t contents);
void area_fill(struct area *area, uint64_t contents);

/* Return: the number of pages where the CPU reads other contents. */
long cpu_wrong_part(const struct area *area, size_t page, size_t pages,
		    uint64_t contents);
long cpu_wrong(const struct area *area, uint64_t contents);

/* Return: the number of pages where the device reads other contents. */
long device_wrong_part(struct mirror *m, struct area *area, size_t page,
		       size_t pages, uint64_t contents);
long device_wrong(struct mirror *m, struct area *area, uint64_t contents);

/* The same, with @other contents expected in @pages pages from @page on. */
long cpu_wrong_but(const struct area *area, uint64_t contents, size_t page,
		   size_t pages, uint64_t other);
long device_wrong_but(struct mirror *m, struct area *area, uint64_t contents,
		      size_t page, size_t pages, uint64_t other);

int device_fill_part(struct mirror *m, struct area *area, size_t page,
		     size_t pages, uint64_t contents);
int device_fill(struct mirror *m, struct area *area, uint64_t contents);

/*
 * Transparent huge pages
 */

bool thp_allowed(void);

/*
 * Map a THP that khugepaged does not collapse again after a split.
 * Return: NULL, or the reason why there is none.
 */
const char *map_thp(struct area *thp, uint64_t contents);

/* The same for the huge zero page, if the kernel uses it. */
const char *map_thp_zeroes(struct area *thp);

/* The same for small pages with contents 1 where a THP fits. */
const char *map_for_collapse(struct area *range);

/*
 * Migration
 */

/* Try once. Use held() to find out what moved. */
int ask_to_device(struct mirror *m, struct area *area, size_t page,
		  size_t pages);
int ask_to_system(struct mirror *m, struct area *area, size_t page,
		  size_t pages);

/* Return: the number of pages on the device, or -errno. */
long held_part(struct mirror *m, const struct area *area, size_t page,
	       size_t pages);
long held(struct mirror *m, const struct area *area);

/* Return: the number of pages on the device afterwards. */
long to_device_part(struct mirror *m, struct area *area, size_t page,
		    size_t pages);
long to_device(struct mirror *m, struct area *area);

/* Return: the number of pages that remain on the device, or -errno. */
long to_system_part(struct mirror *m, struct area *area, size_t page,
		    size_t pages);
long to_system(struct mirror *m, struct area *area);

/* The device evicts all of its memory. */
int unplug(struct mirror *m, const struct area *area);

/*
 * Exclusive access
 */

/* All pages, or -errno. The buffer receives what the device read. */
int make_exclusive_part(struct mirror *m, struct area *area, size_t page,
			size_t pages);
int make_exclusive(struct mirror *m, struct area *area);

/* Return: 0 if the device has exclusive access to no page, -EPERM otherwise. */
int check_exclusive(struct mirror *m, const struct area *area, size_t page,
		    size_t pages);

/*
 * The state of a page
 */

#define PAGEMAP_PRESENT		(1ULL << 63)
#define PAGEMAP_SWAP		(1ULL << 62)
#define PAGEMAP_UFFD_WP		(1ULL << 57)
#define PAGEMAP_EXCLUSIVE	(1ULL << 56)
#define PAGEMAP_SOFT_DIRTY	(1ULL << 55)
#define PAGEMAP_PFN		((1ULL << 55) - 1)

/* The entry of /proc/PID/pagemap; all ones if there is none. */
uint64_t pagemap_of(pid_t pid, const void *at);
uint64_t pagemap_entry(const void *at);

/* Return: the number of pages with one of these bits. */
long pagemap_count(const struct area *area, uint64_t bits);

/* A field of /proc/self/smaps for the mapping at @at, in pages; or -1. */
long smaps_pages(const void *at, const char *field);

/* Pages of the whole system; the free ones are -1 if they cannot be read. */
long pages_locked(void);
long pages_free(void);

/* RssAnon of the process in pages, and whether it is near @expected. */
long rss_now(void);
bool rss_is(long expected);
bool memory_for(size_t pages);

/*
 * Accesses of the CPU that may fail
 */

enum cpu_access { CPU_READ, CPU_WRITE };

/* Return: 0, or the signal. A write stores the byte that was there. */
int cpu_try(void *at, enum cpu_access access);

/* Poison the page at @at. Return: 0 or errno. */
int poison_page(void *at);

/*
 * Userfaultfd
 */

/* Return: a file, or -1 with errno. */
int userfault_open(uint64_t features);
int userfault_register(int uffd, const struct area *area, uint64_t mode);
int userfault_protect(int uffd, const struct area *area, size_t page,
		      size_t pages, uint64_t mode);

/* Fill a missing page. */
int userfault_fill(int uffd, struct area *area, size_t page,
		   uint64_t contents);

/*
 * Other processes
 */

/**
 * struct peer - the other process of a pair
 * @pid: the child; 0 in the child itself
 * @sock: a byte tells the other process to continue
 */
struct peer {
	pid_t pid;
	int sock;
};

int peer_fork(struct peer *peer);

/* Fork a child, which opens the device as @own. */
int peer_fork_device(struct peer *peer, struct mirror *own, unsigned int nr);

/* Fork a child that exits. Return: its status as of waitpid(). */
int fork_and_exit(void);

bool peer_tell(struct peer *peer);

/* Return: false if the other process has exited. */
bool peer_hear(struct peer *peer);

/* The parent waits for the child. Return: its status as of waitpid(). */
int peer_end(struct peer *peer);

#endif /* HMM_TEST_COMMON_H */
