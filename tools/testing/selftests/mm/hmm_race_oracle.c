// SPDX-License-Identifier: GPL-2.0-only
/*
 * The oracle of the race tests, see hmm_race_oracle.h.
 *
 * It depends on the order of the accesses to a record. A change is announced in
 * @leaves before its number is in @begun, and its number is in @begun before
 * the first word changes; @floor rises after the last word has changed. A
 * reader loads @floor first and @begun last. All of them are atomic and
 * sequentially consistent.
 */
#include "hmm_race_common.h"
#include "hmm_race_oracle.h"

uint64_t race_key(uint64_t id, uint32_t number)
{
	return race_mix(id ^ number);
}

/*
 * The low bits of the number of the change, and a checksum of the whole number,
 * the page and the position of the word.
 */
uint32_t race_word(uint64_t key, uint32_t number, unsigned int word)
{
	uint32_t sum = (key + word * 0x9e3779b97f4a7c15ULL) >> 43;

	return number << (32 - RACE_NUMBER_BITS) | sum << 1 | 1;
}

/* The last number up to @last that has the bits of the word. */
uint32_t race_number(uint32_t value, uint32_t last)
{
	uint32_t low = value >> (32 - RACE_NUMBER_BITS);

	return last - ((last - low) & RACE_NUMBER_MASK);
}

/* @key is that of a page and @number its change, or of a text and @number 0. */
void race_fill(uint32_t *words, size_t nr, uint64_t key, uint32_t number)
{
	for (size_t i = 0; i < nr; i++)
		words[i] = race_word(key, number, i);
}

uint32_t race_change_begin(struct race_record *record, uint8_t leaves)
{
	uint32_t number = record->begun + 1;

	record->leaves[number % RACE_RING] = leaves;
	record->begun = number;
	return number;
}

/* Call it only if the change has left nothing older. */
void race_change_end(struct race_record *record)
{
	record->floor = record->begun;
}

/* Changes that leave older ones legal must not pile up. */
bool race_window_is_wide(const struct race_record *record)
{
	return record->begun - record->floor > RACE_RING / 4;
}

struct race_window race_window_open(const struct race_record *record)
{
	struct race_window win = { .floor = record->floor };

	for (int i = 0; i < RACE_ACCESSES; i++)
		win.ended[i] = record->bars[i].ended;
	return win;
}

void race_window_close(struct race_window *win,
		       const struct race_record *record)
{
	win->begun = record->begun;
}

void race_bar(struct race_record *record, enum race_access access)
{
	record->bars[access].begun++;
}

void race_unbar(struct race_record *record, enum race_access access)
{
	record->bars[access].ended++;
}

/* For bars of a thread that was killed. */
void race_unbar_all(struct race_record *record)
{
	for (int i = 0; i < RACE_ACCESSES; i++)
		record->bars[i].ended = record->bars[i].begun;
}

/* At any time since the window was opened; a bar of reads also bars writes. */
bool race_was_barred(const struct race_window *win,
		     const struct race_record *record, enum race_access access)
{
	for (int i = 0; i <= (int)access; i++)
		if (record->bars[i].begun != win->ended[i])
			return true;
	return false;
}

static bool some_change_leaves(const struct race_record *record,
			       const struct race_window *win, uint8_t what)
{
	for (uint32_t n = win->floor; n != win->begun + 1; n++)
		if (record->leaves[n % RACE_RING] & what)
			return true;
	return false;
}

static bool word_is_legal(const struct race_record *record,
			  const struct race_window *win,
			  const struct race_page *page, unsigned int word,
			  uint32_t value)
{
	uint32_t number = race_number(value, win->begun);

	if (!value)
		return some_change_leaves(record, win, RACE_LEAVES_ZERO);
	if (value == race_word(page->other, 0, word))
		return some_change_leaves(record, win, RACE_LEAVES_OTHER);
	return win->begun - number <= win->begun - win->floor &&
	       (record->leaves[number % RACE_RING] & RACE_LEAVES_WORDS) &&
	       value == race_word(race_key(page->id, number), number, word);
}

#define TOP_BITS	0x80808080U

/* The top bit of each byte that is the same in both words. */
static uint32_t equal_bytes(uint32_t a, uint32_t b)
{
	uint32_t diff = a ^ b;

	return ~(((diff & ~TOP_BITS) + ~TOP_BITS) | diff) & TOP_BITS;
}

static bool word_is_torn(const struct race_record *record,
			 const struct race_window *win,
			 const struct race_page *page, unsigned int word,
			 uint32_t value)
{
	uint32_t other = race_word(page->other, 0, word), equal = 0;

	for (uint32_t n = win->floor; n != win->begun + 1; n++) {
		uint8_t leaves = record->leaves[n % RACE_RING];
		uint32_t whole = race_word(race_key(page->id, n), n, word);

		if (leaves & RACE_LEAVES_WORDS)
			equal |= equal_bytes(value, whole);
		if (leaves & RACE_LEAVES_ZERO)
			equal |= equal_bytes(value, 0);
		if (leaves & RACE_LEAVES_OTHER)
			equal |= equal_bytes(value, other);
	}
	return equal == TOP_BITS;
}

/* Sets @where to the first word that is wrong. */
enum race_verdict race_check_text(const struct race_record *record,
				  const struct race_window *win,
				  const struct race_page *page,
				  const struct race_text *text, size_t *where)
{
	uint32_t value = text->words[text->first];
	uint32_t number = race_number(value, win->begun);
	uint64_t key = race_key(page->id, number);
	bool whole = word_is_legal(record, win, page, text->first, value);

	for (size_t i = text->first; i < text->nr; i += text->step) {
		value = text->words[i];
		/* usually one change has left all words */
		if (whole && value == race_word(key, number, i))
			continue;
		if (word_is_legal(record, win, page, i, value) ||
		    word_is_torn(record, win, page, i, value))
			continue;
		*where = i;
		return record->begun - win->floor >= RACE_RING ?
		       RACE_TOO_LATE : RACE_WRONG;
	}
	return RACE_RIGHT;
}

enum race_verdict race_check_page(const struct race_record *record,
				  const struct race_window *win,
				  const struct race_page *page,
				  const uint32_t *words, size_t nr,
				  size_t *where)
{
	struct race_text text = { .words = words, .nr = nr, .step = 1 };

	return race_check_text(record, win, page, &text, where);
}
