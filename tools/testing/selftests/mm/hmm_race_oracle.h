/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The oracle of the race tests: it decides whether the contents that a CPU or a
 * device has read are right, and whether an error has a cause.
 *
 * Contents
 *
 *   Each piece of memory (a page or a block of pages) has a record. A thread
 *   that changes the contents takes the next number of the record, and says
 *   beforehand which contents the change may leave: words of this number,
 *   zeroes, or one other text. "floor" is the last completed change that leaves
 *   nothing older. A reader takes the floor before it reads, and the last
 *   number that was given out afterwards. Only contents that the changes from
 *   the floor to that number leave are legal.
 *
 *   The callers serialise changes of one record. Readers need no lock.
 *
 * Errors
 *
 *   A thread that takes accessible memory away for a while bars it. An access
 *   may fail only if the record was barred at some time since the window was
 *   opened. Reads do not fail because only writes are barred.
 *
 * Words
 *
 *   A word has 32 bits, because the dummy driver copies 32 bits at once when it
 *   is compiled for size. read(), write() and disks may copy less at once and
 *   so tear a word. A word is therefore legal, too, if each of its bytes is
 *   from some legal word.
 */
#ifndef HMM_RACE_ORACLE_H
#define HMM_RACE_ORACLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Words: never zero. They consist of a change's number and a checksum. */

#define RACE_NUMBER_BITS	10
#define RACE_NUMBER_MASK	((1U << RACE_NUMBER_BITS) - 1)

/**
 * struct race_page - the keys of the words of a page
 * @id: unique to the page
 * @other: key of the one other text that changes may leave
 */
struct race_page {
	uint64_t id;
	uint64_t other;
};

uint64_t race_key(uint64_t id, uint32_t number);
uint32_t race_word(uint64_t key, uint32_t number, unsigned int word);
uint32_t race_number(uint32_t value, uint32_t last);
void race_fill(uint32_t *words, size_t nr, uint64_t key, uint32_t number);

/* What a change may leave */
#define RACE_LEAVES_WORDS	1
#define RACE_LEAVES_ZERO	2
#define RACE_LEAVES_OTHER	4

/* The number of changes that a record remembers */
#define RACE_RING		512

/* Times in which something is taken away. */
struct race_bar {
	_Atomic uint32_t begun;
	_Atomic uint32_t ended;
};

enum race_access {
	RACE_READ,
	RACE_WRITE,
	RACE_ACCESSES,
};

/**
 * struct race_record - the history of a piece of memory
 * @begun: number of the last change
 * @floor: the last change after which nothing older can be seen
 * @bars: for reads: no access; for writes: read-only
 * @leaves: contents that the last changes may have left
 */
struct race_record {
	_Atomic uint32_t begun;
	_Atomic uint32_t floor;
	struct race_bar bars[RACE_ACCESSES];
	_Atomic uint8_t leaves[RACE_RING];
};

/**
 * struct race_window - the time in which a reader looks
 * @floor: taken when it opens
 * @ended: bars that had ended when it opened
 * @begun: taken when it closes
 */
struct race_window {
	uint32_t floor;
	uint32_t ended[RACE_ACCESSES];
	uint32_t begun;
};

uint32_t race_change_begin(struct race_record *record, uint8_t leaves);
void race_change_end(struct race_record *record);
bool race_window_is_wide(const struct race_record *record);

struct race_window race_window_open(const struct race_record *record);
void race_window_close(struct race_window *win,
		       const struct race_record *record);

void race_bar(struct race_record *record, enum race_access access);
void race_unbar(struct race_record *record, enum race_access access);
void race_unbar_all(struct race_record *record);
bool race_was_barred(const struct race_window *win,
		     const struct race_record *record,
		     enum race_access access);

enum race_verdict {
	RACE_RIGHT,
	RACE_WRONG,
	RACE_TOO_LATE,	/* the record has forgotten some of the changes */
};

/**
 * struct race_text - contents of a page, as read
 * @words: the page
 * @nr: its words
 * @first: the first word to check
 * @step: from one word to check to the next
 */
struct race_text {
	const uint32_t *words;
	size_t nr;
	size_t first;
	size_t step;
};

enum race_verdict race_check_text(const struct race_record *record,
				  const struct race_window *win,
				  const struct race_page *page,
				  const struct race_text *text, size_t *where);
enum race_verdict race_check_page(const struct race_record *record,
				  const struct race_window *win,
				  const struct race_page *page,
				  const uint32_t *words, size_t nr,
				  size_t *where);

#endif /* HMM_RACE_ORACLE_H */
