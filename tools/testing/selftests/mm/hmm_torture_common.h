/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * State of the torture of device memory: see hmm-torture.c for the processes,
 * the memory and the locks.
 */
#ifndef HMM_TORTURE_COMMON_H
#define HMM_TORTURE_COMMON_H

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "hmm_race_common.h"
#include "hmm_race_oracle.h"
#include "../kselftest.h"

/* A buffer has this before a read into it. No change writes this word. */
#define STAMP		0x5a5a5a5aU

#define NR_BLOCKS	64
#define MAX_BLOCK_PAGES	8
#define SPAN_BLOCKS	8
#define TAIL_BLOCKS	4

#define MAX_SLOTS	16
#define MAX_THREADS	8
#define MAX_OPS		40
#define DEVICES		4

#define MEMCG		"/sys/fs/cgroup/hmm-torture"
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define DEBUG		"/sys/kernel/debug/"

/* In bytes, pages of a block, and words */
extern size_t page_size, page_words;
extern unsigned int block_pages;
extern size_t block_size, block_words;
extern size_t region_size;

/* The own regions come first. */
enum {
	OWN_HUGE,
	OWN_SMALL,
	OWN_FILE,
	SHARED_ANON,
	SHARED_SHMEM,
	SHARED_FILE,
	NR_REGIONS,
	NR_OWN = SHARED_ANON,
};

extern const char *const region_names[NR_REGIONS];

struct block {
	pthread_mutex_t contents;
	struct race_record record;
};

/* A block's mapping in a process. */
struct mapping {
	struct race_bar bars;
	_Atomic bool busy;
};

struct slot {
	_Atomic pid_t pid;
	_Atomic bool ready;
	_Atomic uint32_t incarnation;
	_Atomic unsigned long progress;
	struct mapping mappings[NR_REGIONS][NR_BLOCKS];
	struct block own[NR_OWN][NR_BLOCKS];
};

/* What an operation needs of the system to have an effect. */
enum {
	NOTHING,
	LUCK,
	DIRECT_IO,
	GUP_TEST,
	USERFAULTFD,
	LARGE_FOLIOS,
	NR_NEEDS,
};

/* What can be wrong; each is a result of the test. */
enum {
	WORDS,
	ERRORS,
	PROCESSES,
	EFFECT,
	DEVICE_PAGES,
	CHARGES,
	COUNTERS,
	NR_RESULTS,
};

/* Shared by all processes, in memory that is not tortured. */
struct control {
	_Atomic unsigned int complaints;
	_Atomic unsigned int wrong[NR_RESULTS];
	_Atomic bool over;
	struct race_bar injections;
	_Atomic unsigned long ops, words, unjudged, excused;
	_Atomic unsigned long tried[MAX_OPS], done[MAX_OPS];
	_Atomic unsigned long meddled[MAX_OPS], meant[MAX_OPS];
	_Atomic bool has[NR_NEEDS];
	_Atomic unsigned long filled, kills, stops;
	pthread_mutex_t gup_lock;
	_Atomic pid_t gup_holder;
	struct slot slots[MAX_SLOTS];
	struct block shared[NR_REGIONS][NR_BLOCKS];
};

extern struct control *control;

struct options {
	uint64_t seed;
	unsigned long seconds;
	unsigned long patience;
	unsigned int slots;
	unsigned int threads;
	bool all_needed;
	const char *only;
	const char *without;
	const char *directory;
};

extern struct options options;

extern bool own_driver;		/* the dummy device is not the base's */
extern bool large_folios;	/* it has folios of all orders */
extern bool have_device[DEVICES];
extern bool can_inject;

/**
 * struct region - memory, as a process sees it
 * @nr: index of the region
 * @slot: slot of the process
 * @addr: where it is mapped
 * @fd: the mapped file, -1 for anonymous memory
 * @blocks: records of its contents
 * @mappings: state of its mappings
 * @id: the same only for processes that share the region
 */
struct region {
	unsigned int nr;
	struct slot *slot;
	char *addr;
	int fd;
	struct block *blocks;
	struct mapping *mappings;
	uint64_t id;
};

/* Some blocks of a region. */
struct span {
	struct region *region;
	unsigned int first;
	unsigned int nr;
};

struct worker {
	pthread_t thread;
	unsigned int index;
	uint64_t random;
	uint32_t *buffer;
	char *spare;			/* op_move() moves a block there */
	int pipe[2];
	int scratch;			/* a file opened with O_DIRECT */
	int fail_nth;
	bool injected;
	volatile sig_atomic_t guarded;
	sigjmp_buf jump;
};

/* Of a worker's process. */
extern struct slot *slot;
extern struct region regions[NR_REGIONS];
extern int devices[DEVICES];
extern int uffd, pagemap, gup_fd;
extern __thread struct worker *self;

/*
 * Reporting is safe in a child of a process with threads. A failure to report
 * is a complaint, too.
 */
#define note(...)							\
	((void)(race_note(__VA_ARGS__) || control->complaints++))
#define finding(...)							\
	((void)(race_finding(__VA_ARGS__) || control->complaints++))

/* The first few say enough. */
#define complain(what, ...)						\
	do {								\
		control->wrong[what]++;					\
		if (control->complaints++ < 12)				\
			finding(__VA_ARGS__);				\
	} while (0)

/* For operations that must succeed in the end, but may fail for some time. */
#define insist(what, done)						\
	do {								\
		inject_no_more(self);					\
		if (!race_wait_for(done, options.patience))		\
			complain(ERRORS, "%s: %s\n", what,		\
				 strerror(errno));			\
	} while (0)

void must_have(bool ok, const char *what);
void *memory(size_t size, int prot);
void enter_cgroup(const char *procs);

uint32_t below(struct worker *w, uint32_t limit);
bool one_in(struct worker *w, uint32_t nr);

void inject(struct worker *w, unsigned int nth);
void inject_no_more(struct worker *w);

#endif /* HMM_TORTURE_COMMON_H */
