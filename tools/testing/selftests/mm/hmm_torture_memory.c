// SPDX-License-Identifier: GPL-2.0-only
/* The memory of the torture, see hmm_torture_memory.h. */
#include "hmm_torture_memory.h"

/* Regions, blocks, and views of them */

bool is_own(const struct region *region)
{
	return region->nr < NR_OWN;
}

/* What a hole in the region reads as. */
uint8_t hole_leaves(const struct region *region)
{
	return region->nr == OWN_FILE ? RACE_LEAVES_OTHER : RACE_LEAVES_ZERO;
}

/* An own region depends on its owner and on the incarnation of that. */
static uint64_t owned_id(unsigned int nr, unsigned int owner,
			 uint32_t incarnation)
{
	uint64_t id = race_mix(options.seed + nr + 1);

	if (nr < NR_OWN)
		id ^= race_mix((uint64_t)owner << 32 | incarnation);
	return id;
}

uint64_t region_id(unsigned int nr, const struct slot *owner)
{
	return owned_id(nr, owner - control->slots, owner->incarnation);
}

/* Makes the words of a child differ from those of its parent. */
uint64_t child_salt(pid_t pid)
{
	return race_mix(pid);
}

char *span_address(const struct span *s)
{
	return s->region->addr + s->first * block_size;
}

size_t span_size(const struct span *s)
{
	return s->nr * block_size;
}

struct span span_block(const struct span *s, unsigned int i)
{
	return (struct span) { s->region, s->first + i, 1 };
}

struct race_record *record(const struct span *s)
{
	return &s->region->blocks[s->first].record;
}

struct mapping *mapping(const struct span *s)
{
	return &s->region->mappings[s->first];
}

/* The other text is that of a private file, or one for KSM to merge. */
struct race_page page_of(const struct span *s, unsigned int i)
{
	uint64_t page = s->first * block_pages + i;
	uint64_t other = s->region->nr == OWN_FILE ? ~page : ~0ULL << 32;

	return (struct race_page) {
		.id = s->region->id ^ page << 32,
		.other = race_mix(options.seed ^ other),
	};
}

void fill_block(uint32_t *words, const struct span *s, uint32_t number)
{
	for (unsigned int i = 0; i < block_pages; i++)
		race_fill(words + i * page_words, page_words,
			  race_key(page_of(s, i).id, number), number);
}

void fill_other(uint32_t *words, const struct span *s)
{
	for (unsigned int i = 0; i < block_pages; i++)
		race_fill(words + i * page_words, page_words,
			  page_of(s, i).other, 0);
}

struct view view_open(const struct span *s)
{
	return (struct view) {
		.win = race_window_open(record(s)),
		.unbarred = mapping(s)->bars.ended,
		.injections_over = control->injections.ended,
		.incarnation = s->region->slot->incarnation,
	};
}

void view_close(struct view *view, const struct span *s)
{
	race_window_close(&view->win, record(s));
}

/* Does an error have a cause? */
static bool is_excused(const struct view *view, const struct span *s)
{
	return race_was_barred(&view->win, record(s), RACE_WRITE) ||
	       mapping(s)->bars.begun != view->unbarred ||
	       control->injections.begun != view->injections_over ||
	       s->region->slot->incarnation != view->incarnation ||
	       (self && self->injected);
}

static bool is_passing(int error)
{
	return error == EBUSY || error == EINTR || error == ENOMEM ||
	       error == EAGAIN;
}

/* Judge errno after a failed access. */
void check_error(const char *who, const struct view *view,
		 const struct span *s)
{
	int error = errno;

	control->excused++;
	if (is_passing(error) || is_excused(view, s))
		return;
	complain(ERRORS, "%s, %s, block %u: %s without a cause\n", who,
		 region_names[s->region->nr], s->first, strerror(error));
}

/* A hint where a wrong word comes from. */
static const char *describe_word(const struct race_page *page,
				 const struct race_window *win, size_t i,
				 uint32_t value)
{
	uint32_t number = race_number(value, win->begun);

	if (!value)
		return "zero";
	if (value == STAMP)
		return "never written";
	if (value == race_word(page->other, 0, i))
		return "the other text";
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a change that was overwritten";
	number = race_number(value, win->begun + RACE_NUMBER_MASK);
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a future change";
	return "foreign";
}

/* A candidate for the origin of words that are not of this page. */
struct origin {
	const uint32_t *words;
	uint64_t base;			/* of a region and its owner */
	unsigned int region;
	unsigned int owner;
	uint32_t incarnation;
};

static bool is_origin(const struct origin *o, uint64_t id)
{
	uint32_t number = o->words[0] >> (32 - RACE_NUMBER_BITS);
	uint64_t key = race_key(id, number);

	for (unsigned int i = 0; i < 4; i++)
		if (o->words[i] != race_word(key, number, i))
			return false;
	return true;
}

static void note_origin(const struct origin *o, unsigned int page, pid_t child)
{
	note("  they are of page %u of %s, process %u.%u, child %d, change %u\n",
	     page, region_names[o->region], o->owner, o->incarnation, child,
	     o->words[0] >> (32 - RACE_NUMBER_BITS));
}

#define MOST_PIDS	4000

static void find_origin_page(const struct origin *o, unsigned int page)
{
	uint64_t id = o->base ^ (uint64_t)page << 32;

	if (is_origin(o, id))
		note_origin(o, page, 0);
}

static void find_origin_child(const struct origin *o, unsigned int page)
{
	for (pid_t pid = 1; pid < MOST_PIDS; pid++)
		if (is_origin(o, (o->base ^ child_salt(pid)) ^
			      (uint64_t)page << 32))
			note_origin(o, page, pid);
}

/* Try any page of any owner, and this page of any child. */
static void find_origin(const uint32_t *words, unsigned int page)
{
	struct origin o = { .words = words };

	for (o.region = 0; o.region < NR_REGIONS; o.region++)
		for (o.owner = 0; o.owner < options.slots; o.owner++)
			for (o.incarnation = 1; o.incarnation <=
			     control->slots[o.owner].incarnation;
			     o.incarnation++) {
				o.base = owned_id(o.region, o.owner,
						  o.incarnation);
				for (unsigned int i = 0; i < NR_BLOCKS *
				     block_pages; i++)
					find_origin_page(&o, i);
				find_origin_child(&o, page);
			}
}

static void complain_of_word(const char *who, const struct span *s,
			     const struct view *view,
			     const struct race_page *page, unsigned int nr,
			     size_t i, uint32_t value)
{
	const struct race_window *win = &view->win;
	uint64_t index = (uintptr_t)span_address(s) / page_size + nr, entry = 0;

	if (pagemap >= 0 && pread(pagemap, &entry, sizeof(entry),
				  index * sizeof(entry)) < 0)
		entry = 0;
	complain(WORDS,
		 "%s, %s, page %u (pagemap %#llx): word %zu is %#x, %s (change %u); legal are %u to %u\n",
		 who, region_names[s->region->nr],
		 s->first * block_pages + nr, (unsigned long long)entry, i,
		 value, describe_word(page, win, i, value),
		 race_number(value, win->begun), win->floor, win->begun);
}

/* One complaint a page. Return: whether the page is right. */
bool check_page(const char *who, const struct span *s,
		const struct race_record *record,
		const struct view *view, unsigned int nr,
		const uint32_t *words)
{
	struct race_page page = page_of(s, nr);
	enum race_verdict verdict;
	size_t i;

	verdict = race_check_page(record, &view->win, &page, words, page_words,
				  &i);
	if (verdict == RACE_RIGHT) {
		control->words += page_words;
		return true;
	}
	if (verdict == RACE_TOO_LATE ||
	    s->region->slot->incarnation != view->incarnation) {
		control->unjudged++;
		return true;
	}
	complain_of_word(who, s, view, &page, nr, i, words[i]);
	if (!i && words[0] != STAMP && control->complaints <= 4)
		find_origin(words, s->first * block_pages + nr);
	return false;
}

bool check_block(const char *who, const struct span *s,
		 const struct view *view, const uint32_t *words)
{
	bool ok = true;

	for (unsigned int i = 0; i < block_pages; i++)
		ok &= check_page(who, s, record(s), view, i,
				 words + i * page_words);
	return ok;
}

struct views views_open(const struct span *s)
{
	struct views views;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct span block = span_block(s, i);

		views.block[i] = view_open(&block);
	}
	return views;
}

/* Check the blocks that are complete in the first @pages pages. */
bool check_span(const char *who, const struct span *s,
		struct views *views, const uint32_t *words,
		size_t pages)
{
	bool ok = true;

	for (unsigned int i = 0; i < s->nr && (i + 1) * block_pages <= pages;
	     i++) {
		struct span block = span_block(s, i);

		view_close(&views->block[i], &block);
		ok &= check_block(who, &block, &views->block[i],
				  words + i * block_words);
	}
	return ok;
}

void check_span_error(const char *who, const struct span *s,
		      const struct views *views)
{
	int error = errno;

	control->excused++;
	if (is_passing(error))
		return;
	for (unsigned int i = 0; i < s->nr; i++) {
		struct span block = span_block(s, i);

		if (is_excused(&views->block[i], &block))
			return;
	}
	complain(ERRORS, "%s, %s, blocks %u to %u: %s without a cause\n", who,
		 region_names[s->region->nr], s->first, s->first + s->nr - 1,
		 strerror(error));
}

/* For some time all workers get the same block, or they would rarely meet. */
#define HOT_OPS		64

uint64_t hot_hash(void)
{
	return race_mix(options.seed + control->ops / HOT_OPS);
}

struct span hot_block(void)
{
	uint64_t hash = hot_hash();

	return (struct span) {
		.region = &regions[hash % NR_REGIONS],
		.first = hash / NR_REGIONS % NR_BLOCKS,
		.nr = 1,
	};
}

struct span pick_block(struct worker *w)
{
	if (one_in(w, 2))
		return hot_block();
	return (struct span) {
		.region = &regions[below(w, NR_REGIONS)],
		.first = below(w, NR_BLOCKS),
		.nr = 1,
	};
}

struct span pick_span(struct worker *w)
{
	struct span s = pick_block(w);

	s.nr = 1 + below(w, 1 + below(w, SPAN_BLOCKS));
	if (s.nr > NR_BLOCKS - s.first)
		s.nr = NR_BLOCKS - s.first;
	return s;
}

/* Changes of single blocks split huge pages, so they mostly go elsewhere. */
struct span pick_mapping(struct worker *w)
{
	struct span s = pick_block(w);

	if (s.region->nr == OWN_HUGE && !one_in(w, 8))
		s.region = &regions[OWN_SMALL];
	return s;
}

/* Locks */

/*
 * The owner of the lock was killed. It may have left a file truncated and the
 * block barred. No other process can have done so without the lock.
 */
static void repair(const struct span *s)
{
	struct block *block = &s->region->blocks[s->first];

	if (!is_own(s->region) && s->region->fd >= 0 &&
	    ftruncate(s->region->fd, region_size))
		complain(ERRORS, "a truncated file cannot be extended: %s\n",
			 strerror(errno));
	race_unbar_all(&block->record);
	pthread_mutex_consistent(&block->contents);
}

void lock_contents(const struct span *s)
{
	struct block *block = &s->region->blocks[s->first];
	int ret = pthread_mutex_lock(&block->contents);

	if (ret == EOWNERDEAD)
		repair(s);
	else if (ret)
		complain(PROCESSES, "lock of a block: %s\n", strerror(ret));
}

void unlock_contents(const struct span *s)
{
	pthread_mutex_unlock(&s->region->blocks[s->first].contents);
}

bool get_mapping(const struct span *s)
{
	return !atomic_exchange(&mapping(s)->busy, true);
}

void put_mapping(const struct span *s)
{
	mapping(s)->busy = false;
}

void bar(const struct span *s)
{
	mapping(s)->bars.begun++;
}

void unbar(const struct span *s)
{
	mapping(s)->bars.ended++;
}

bool map_memory(const struct region *region, char *addr, size_t size,
		int flags)
{
	int prot = PROT_READ | PROT_WRITE;

	flags |= is_own(region) ? MAP_PRIVATE : MAP_SHARED;
	if (region->fd < 0)
		flags |= MAP_ANONYMOUS;
	if (mmap(addr, size, prot, flags, region->fd,
		 region->fd < 0 ? 0 : addr - region->addr) != addr)
		return false;
	madvise(addr, size, region->nr == OWN_HUGE ? MADV_HUGEPAGE :
						     MADV_NOHUGEPAGE);
	return true;
}
