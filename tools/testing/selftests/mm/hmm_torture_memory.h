/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory of the torture: regions and blocks, views of them, causes of
 * errors, and locks.
 */
#ifndef HMM_TORTURE_MEMORY_H
#define HMM_TORTURE_MEMORY_H

#include "hmm_torture_common.h"

/* Opened before a block is accessed. */
struct view {
	struct race_window win;
	uint32_t unbarred;
	uint32_t injections_over;
	uint32_t incarnation;
};

/* Of several blocks at once. */
struct views {
	struct view block[SPAN_BLOCKS];
};

bool is_own(const struct region *region);
uint64_t region_id(unsigned int nr, const struct slot *owner);
uint64_t child_salt(pid_t pid);
uint8_t hole_leaves(const struct region *region);

char *span_address(const struct span *s);
size_t span_size(const struct span *s);
struct span span_block(const struct span *s, unsigned int i);
struct race_record *record(const struct span *s);
struct mapping *mapping(const struct span *s);
struct race_page page_of(const struct span *s, unsigned int i);
void fill_block(uint32_t *words, const struct span *s, uint32_t number);
void fill_other(uint32_t *words, const struct span *s);

struct view view_open(const struct span *s);
void view_close(struct view *view, const struct span *s);
void check_error(const char *who, const struct view *view,
		 const struct span *s);
bool check_page(const char *who, const struct span *s,
		const struct race_record *record, const struct view *view,
		unsigned int nr, const uint32_t *words);
bool check_block(const char *who, const struct span *s,
		 const struct view *view, const uint32_t *words);

struct views views_open(const struct span *s);
bool check_span(const char *who, const struct span *s, struct views *views,
		const uint32_t *words, size_t pages);
void check_span_error(const char *who, const struct span *s,
		      const struct views *views);

uint64_t hot_hash(void);
struct span hot_block(void);
struct span pick_block(struct worker *w);
struct span pick_span(struct worker *w);
struct span pick_mapping(struct worker *w);

void lock_contents(const struct span *s);
void unlock_contents(const struct span *s);
bool get_mapping(const struct span *s);
void put_mapping(const struct span *s);
void bar(const struct span *s);
void unbar(const struct span *s);

bool map_memory(const struct region *region, char *addr, size_t size,
		int flags);

#endif /* HMM_TORTURE_MEMORY_H */
