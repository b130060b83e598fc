/* SPDX-License-Identifier: GPL-2.0-only */
/* State of hmm-migrate-race, its blocks and its area */
#ifndef HMM_MIGRATE_RACE_COMMON_H
#define HMM_MIGRATE_RACE_COMMON_H

#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "hmm_race_common.h"
#include "hmm_race_oracle.h"
#include "../kselftest.h"

#define BLOCK_PAGES	16
#define BANKS		2
#define MOST_BLOCKS	4
/* One call covers at most the pages of a bank and one page behind it. */
#define MOST_BANK_PAGES	512
#define MOST_PAGES	(MOST_BANK_PAGES + 1)
#define MAX_WORKERS	24
#define MAX_SETS	5
#define MAX_ROLES	12

/* The page that the text for KSM pretends to be of. */
#define SAME_PAGE	0xffff

struct block {
	pthread_mutex_t contents;
	pthread_rwlock_t touch;
	struct race_record record;
};

struct worker;

/**
 * struct role - the work of some threads of a scenario
 * @name: for the report
 * @op: one operation; returns whether it had an effect
 * @threads: number of threads
 * @share: operations of each thread, in per cent of the iterations; 0: as long
 *	as other roles have work
 */
struct role {
	const char *name;
	bool (*op)(struct worker *w);
	unsigned int threads;
	unsigned int share;
};

/* Properties of a scenario */
#define DISCARDS	1	/* there can be holes: migrate into the gap */
#define IN_PLACE	2	/* the near device writes to its own memory */
#define NEEDS_SWAP	4
#define NEEDS_KSM	8
#define NEEDS_GUP	16
#define NEEDS_MEMCG	32
#define INTERRUPTS	64
#define UNLOCKED_EXCLUSIVE 128	/* pages become exclusive without a lock */

struct scenario {
	const char *name;
	unsigned int flags;
	const struct role *sets[MAX_SETS];
	struct role roles[MAX_ROLES];
	void (*body)(void);
};

struct worker {
	pthread_t thread;
	const struct role *role;
	uint64_t random;
	uint32_t *buffer;
	char *spare;		/* move() moves a block there */
	int pipe[2];
	unsigned long tried, done;
	struct worker *first;	/* of this role */
	_Atomic bool effect;	/* of the role, kept by the first */
};

/* Shared by the harness, the process of a scenario, and its children. */
struct control {
	_Atomic unsigned int complaints;
	_Atomic unsigned long progress;
	_Atomic unsigned long words, unjudged, busy;
	char skip[128];
};

extern struct control *control;

/* The scenario that runs, and its memory */
extern const struct scenario *scenario;
extern struct block *blocks;
extern unsigned int nr_blocks;
extern char *banks[BANKS], *area_start;
extern size_t page_size, page_words, block_size, bank_size;

extern int near_fd, far_fd, gup_fd;
extern unsigned int near_device;
extern bool coherent;

extern uint64_t seed;
extern uint64_t salt;		/* of a child that has words of its own */
extern unsigned long iterations;
extern unsigned int limit;	/* seconds without progress */
extern time_t started;
extern long swapped_before;

/* Reporting: safe in a child of a process with threads. */

/* A failure to report is a complaint, too. */
#define note(...)							\
	((void)(race_note(__VA_ARGS__) || control->complaints++))
#define finding(...)							\
	((void)(race_finding(__VA_ARGS__) || control->complaints++))

/* The first few say enough. */
#define complain(...)							\
	do {								\
		if (control->complaints++ < 10)				\
			finding(__VA_ARGS__);				\
	} while (0)

void must(bool ok, const char *what);
void must_have(bool ok, const char *what);
void skip_all(const char *why);
void fill_page(uint32_t *words, unsigned int page, uint32_t number);
void fill_same(uint32_t *words);
void fill(uint32_t *words, unsigned int b, uint32_t number);
char *block_address(unsigned int b);
struct race_record *record(unsigned int b);
bool check_block(const char *who, unsigned int b,
		 const struct race_window *win, const uint32_t *words);
bool check_at_rest(const char *who, unsigned int b,
		   const uint32_t *words);
unsigned int pick_block(struct worker *w);
unsigned int pick_small_block(struct worker *w);
void lock_contents(unsigned int b);
void unlock_contents(unsigned int b);
void share_touch(unsigned int b);
void lock_touch(unsigned int b);
void unlock_touch(unsigned int b);
void device_lock(unsigned int b, unsigned int nr);
void device_unlock(unsigned int b, unsigned int nr);
void cpu_fill(unsigned int b);
void *memory(size_t size);
void set_up_area(void);
void open_devices(void);
void set_up_worker(struct worker *w, const struct role *role,
		   unsigned int index);
void tear_down_worker(struct worker *w);
bool lacks_swap(void);
bool has_time(void);
struct race_local near_pages(int fd, char *addr, unsigned int nr);

#endif /* HMM_MIGRATE_RACE_COMMON_H */
