// SPDX-License-Identifier: GPL-2.0-only
/* Operations of hmm-migrate-race. */
#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "hmm_migrate_race_ops.h"
#include "hmm_race_pins.h"

/* Nothing migrates to the device while its memory is removed. */
static pthread_rwlock_t plug =
	PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

/* The CPU */

bool op_cpu_write(struct worker *w)
{
	unsigned int b = pick_block(w);

	lock_contents(b);
	share_touch(b);
	cpu_fill(b);
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static bool cpu_read_block(struct worker *w, unsigned int b)
{
	struct race_window win;

	share_touch(b);
	win = race_window_open(record(b));
	memcpy(w->buffer, block_address(b), block_size);
	race_window_close(&win, record(b));
	unlock_touch(b);
	return check_block("CPU read", b, &win, w->buffer);
}

bool op_cpu_read(struct worker *w)
{
	return cpu_read_block(w, pick_block(w));
}

/* The far device */

static void check_error(const char *who, unsigned int b,
			const struct race_window *win, enum race_access access)
{
	int error = errno;

	if (error == EBUSY)
		control->busy++;
	else if (!race_was_barred(win, record(b), access))
		complain("%s of block %u: %s without a cause\n", who, b,
			 strerror(error));
}

bool far_read_block(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));
	int ret;

	device_lock(b, 1);
	ret = race_device(far_fd, HMM_DMIRROR_READ, block_address(b),
			  BLOCK_PAGES, w->buffer);
	device_unlock(b, 1);
	if (ret) {
		check_error("device read", b, &win, RACE_READ);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("device read", b, &win, w->buffer);
}

bool op_far_read(struct worker *w)
{
	return far_read_block(w, pick_block(w));
}

/* Under "contents". If the device fails, the CPU writes. */
static bool far_write_block(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));
	uint32_t number = race_change_begin(record(b), RACE_LEAVES_WORDS);
	int ret;

	fill(w->buffer, b, number);
	device_lock(b, 1);
	ret = race_device(far_fd, HMM_DMIRROR_WRITE, block_address(b),
			  BLOCK_PAGES, w->buffer);
	device_unlock(b, 1);
	if (ret) {
		check_error("device write", b, &win, RACE_WRITE);
		share_touch(b);
		fill((uint32_t *)block_address(b), b, number);
		unlock_touch(b);
	}
	race_change_end(record(b));
	return !ret;
}

bool op_far_write(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool ok;

	lock_contents(b);
	ok = far_write_block(w, b);
	unlock_contents(b);
	return ok;
}

/* The near device */

static bool is_near(int fd, char *addr)
{
	return near_pages(fd, addr, BLOCK_PAGES).pages > 0;
}

/*
 * Other threads take pages back at once. Return: true if the device has read
 * some in its memory, or if some are still there.
 */
static bool migrate_near(char *addr, size_t pages, void *buffer)
{
	size_t done;

	return !race_device_counted(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr,
				    pages, buffer, &done) || done ||
	       near_pages(near_fd, addr, pages).pages;
}

struct part {
	unsigned int b;
	unsigned int blocks;
	size_t pages;
};

/* Some blocks of one bank, with DISCARDS up to the gap behind it. */
static struct part pick_part(struct worker *w)
{
	struct part part = { .b = pick_block(w) };
	unsigned int per_bank = nr_blocks / BANKS;
	unsigned int left = per_bank - part.b % per_bank;

	part.blocks = 1 + race_below(&w->random, MOST_BLOCKS);
	if (scenario->flags & DISCARDS || part.blocks > left)
		part.blocks = left;
	part.pages = part.blocks * BLOCK_PAGES;
	if (scenario->flags & DISCARDS)
		part.pages++;
	return part;
}

bool op_to_device(struct worker *w)
{
	struct part part = pick_part(w);
	char *addr = block_address(part.b);
	bool moved;

	pthread_rwlock_rdlock(&plug);
	moved = migrate_near(addr, part.pages, w->buffer);
	pthread_rwlock_unlock(&plug);
	return moved;
}

bool op_to_system(struct worker *w)
{
	struct part part = pick_part(w);
	int ret;

	device_lock(part.b, part.blocks);
	ret = race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_SYS,
			  block_address(part.b), part.pages, w->buffer);
	device_unlock(part.b, part.blocks);
	return !ret || scenario->flags & DISCARDS;
}

/*
 * All others are locked out of the block, and all its pages are on the device
 * and writable when the write begins. Otherwise the dummy driver would fault on
 * its own pages, which it does not support. The first page is left out, since
 * the driver forgets one page too many when memory before it is invalidated.
 */
static bool write_near_memory(struct worker *w, unsigned int b)
{
	char *addr = block_address(b) + page_size;
	unsigned int nr = BLOCK_PAGES - 1;
	uint32_t number;
	bool ok;

	if (race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr,
			w->buffer) ||
	    near_pages(near_fd, addr, nr).writable != nr)
		return false;
	number = race_change_begin(record(b), RACE_LEAVES_WORDS);
	fill(w->buffer, b, number);
	ok = !race_device(near_fd, HMM_DMIRROR_WRITE, addr, nr,
			  w->buffer + page_words);
	must(ok, "device write in place");
	fill_page((uint32_t *)block_address(b), b * BLOCK_PAGES, number);
	if (ok)
		race_change_end(record(b));
	else
		cpu_fill(b);
	return ok;
}

bool op_near_write(struct worker *w)
{
	unsigned int b = pick_small_block(w);
	bool ok;

	lock_contents(b);
	lock_touch(b);
	cpu_fill(b);
	if (scenario->flags & DISCARDS && race_below(&w->random, 2)) {
		race_change_begin(record(b), RACE_LEAVES_ZERO);
		must(!madvise(block_address(b), block_size, MADV_FREE),
		     "MADV_FREE");
	}
	ok = write_near_memory(w, b);
	unlock_touch(b);
	if (ok && race_below(&w->random, 2)) {
		share_touch(b);
		check_at_rest("CPU read of device memory", b,
			      (uint32_t *)block_address(b));
		unlock_touch(b);
	}
	unlock_contents(b);
	return ok;
}

/* Changes of the mapping and of the pages */

bool op_discard(struct worker *w)
{
	unsigned int b = pick_block(w);

	lock_contents(b);
	race_change_begin(record(b), RACE_LEAVES_ZERO);
	must(!madvise(block_address(b), block_size, MADV_DONTNEED),
	     "MADV_DONTNEED");
	race_change_end(record(b));
	unlock_contents(b);
	return true;
}

bool op_let_free(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool wide;

	lock_contents(b);
	wide = race_window_is_wide(record(b));
	if (!wide) {
		race_change_begin(record(b), RACE_LEAVES_ZERO);
		must(!madvise(block_address(b), block_size, MADV_FREE),
		     "MADV_FREE");
	}
	unlock_contents(b);
	return !wide;
}

bool op_page_out(struct worker *w)
{
	return !madvise(block_address(pick_block(w)), block_size,
			MADV_PAGEOUT);
}

static bool map_block(char *addr, unsigned int b, int flags)
{
	if (mmap(addr, block_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0) != addr)
		return false;
	return !madvise(addr, block_size, b < nr_blocks / 2 ?
			MADV_HUGEPAGE : MADV_NOHUGEPAGE) || errno == EINVAL;
}

bool op_remap(struct worker *w)
{
	unsigned int b = pick_block(w);
	char *addr = block_address(b);

	lock_contents(b);
	lock_touch(b);
	race_bar(record(b), RACE_READ);
	race_change_begin(record(b), RACE_LEAVES_ZERO);
	if (race_below(&w->random, 2)) {
		must(!munmap(addr, block_size), "munmap");
		must(map_block(addr, b, MAP_FIXED_NOREPLACE), "mmap");
	} else {
		must(map_block(addr, b, MAP_FIXED), "mmap over it");
	}
	race_change_end(record(b));
	race_unbar(record(b), RACE_READ);
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static void move_block(char *from, char *to)
{
	must(mremap(from, block_size, block_size,
		    MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
}

/* To other addresses, there to the device and back, and to its place again. */
bool op_move(struct worker *w)
{
	unsigned int b = pick_block(w);
	char *addr = block_address(b);
	bool moved;

	lock_contents(b);
	lock_touch(b);
	race_bar(record(b), RACE_READ);
	move_block(addr, w->spare);
	moved = !race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, w->spare,
			     BLOCK_PAGES, w->buffer) ||
		is_near(near_fd, w->spare);
	if (race_below(&w->random, 2))
		check_at_rest("CPU read of moved memory", b,
			      (uint32_t *)w->spare);
	move_block(w->spare, addr);
	must(mmap(w->spare, block_size, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w->spare,
	     "mmap of the spare");
	race_unbar(record(b), RACE_READ);
	unlock_touch(b);
	unlock_contents(b);
	return moved;
}

/* A write that must fail takes no number: its words would be illegal. */
static void try_forbidden_write(struct worker *w, unsigned int b)
{
	memset(w->buffer, 0xee, block_size);
	if (!race_device(far_fd, HMM_DMIRROR_WRITE, block_address(b),
			 BLOCK_PAGES, w->buffer))
		complain("a device writes to block %u, which is read-only\n",
			 b);
}

bool op_protect(struct worker *w)
{
	unsigned int b = pick_block(w);
	int prot = race_below(&w->random, 3) ? PROT_READ : PROT_NONE;
	enum race_access barred = prot & PROT_READ ? RACE_WRITE : RACE_READ;
	char *addr = block_address(b);
	bool alone = race_below(&w->random, 2);

	if (alone)
		lock_contents(b);
	lock_touch(b);
	race_bar(record(b), barred);
	must(!mprotect(addr, block_size, prot), "mprotect");
	if (alone)
		try_forbidden_write(w, b);
	if (alone && prot == PROT_READ)
		check_at_rest("CPU read of read-only memory", b,
			      (uint32_t *)addr);
	must(!mprotect(addr, block_size, PROT_READ | PROT_WRITE),
	     "mprotect back");
	race_unbar(record(b), barred);
	unlock_touch(b);
	if (alone)
		unlock_contents(b);
	return true;
}

/* Every second page can be merged with others; the rest can be migrated. */
bool op_write_same(struct worker *w)
{
	unsigned int b = pick_block(w);
	uint32_t *words = (uint32_t *)block_address(b);
	uint32_t number;

	lock_contents(b);
	share_touch(b);
	number = race_change_begin(record(b),
				   RACE_LEAVES_OTHER | RACE_LEAVES_WORDS);
	for (unsigned int i = 0; i < BLOCK_PAGES; i += 2) {
		fill_same(words + i * page_words);
		fill_page(words + (i + 1) * page_words,
			  b * BLOCK_PAGES + i + 1, number);
	}
	race_change_end(record(b));
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

bool op_compact(struct worker *w)
{
	return !race_write_file("/proc/sys/vm/compact_memory", "1");
}

/* Pins */

/*
 * FOLL_WRITE: gup_test warns of pins of the zero page, which are not counted.
 */
bool op_pin_short(struct worker *w)
{
	unsigned int flags = FOLL_WRITE;

	if (!(scenario->flags & DISCARDS) && race_below(&w->random, 2))
		flags = 0;
	return race_pin_briefly(gup_fd, block_address(pick_block(w)),
				block_size, &w->random, flags);
}

/* A pipe holds the pages of the process, so it sees a later write. */
bool op_splice_out(struct worker *w)
{
	unsigned int b = pick_block(w);
	struct iovec part = { block_address(b), block_size };
	char *to = (char *)w->buffer;
	ssize_t held, got = 0, nr = 0;

	lock_contents(b);
	share_touch(b);
	held = vmsplice(w->pipe[1], &part, 1, SPLICE_F_NONBLOCK);
	cpu_fill(b);
	unlock_touch(b);
	for (; got < held && nr >= 0; got += nr)
		nr = read(w->pipe[0], to + got, held - got);
	if (held == (ssize_t)block_size)
		check_at_rest("read of spliced pages", b, w->buffer);
	else
		must(held >= 0, "vmsplice");
	unlock_contents(b);
	return held == (ssize_t)block_size;
}

static void check_pinned(struct worker *w, const char *who, unsigned int b)
{
	uint64_t to = (uintptr_t)w->buffer;

	if (ioctl(gup_fd, PIN_LONGTERM_TEST_READ, &to))
		complain("read through a pin: %s\n", strerror(errno));
	else
		check_at_rest(who, b, w->buffer);
}

/* A read through the pin sees the writes of the CPU and of the device. */
bool op_pin_long(struct worker *w)
{
	unsigned int b = pick_block(w);
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)block_address(b),
		.size = block_size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	bool pinned;

	if (race_below(&w->random, 2))
		pin.flags |= PIN_LONGTERM_TEST_FLAG_USE_FAST;
	lock_contents(b);
	pinned = !ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin);
	if (pinned) {
		check_pinned(w, "pinned pages", b);
		share_touch(b);
		cpu_fill(b);
		unlock_touch(b);
		check_pinned(w, "pinned pages after a CPU write", b);
		far_write_block(w, b);
		check_pinned(w, "pinned pages after a device write", b);
		ioctl(gup_fd, PIN_LONGTERM_TEST_STOP);
	}
	unlock_contents(b);
	return pinned;
}

/* Exclusive access */

static bool make_exclusive(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));

	if (race_device(far_fd, HMM_DMIRROR_EXCLUSIVE, block_address(b),
			BLOCK_PAGES, w->buffer)) {
		/* revoked before the device could read */
		if (errno != ENOENT)
			check_error("exclusive access", b, &win, RACE_WRITE);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("exclusive read", b, &win, w->buffer);
}

bool op_exclusive(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool ok;

	if (scenario->flags & UNLOCKED_EXCLUSIVE)
		return make_exclusive(w, b);
	lock_contents(b);
	ok = make_exclusive(w, b);
	unlock_contents(b);
	return ok;
}

static bool is_exclusive(unsigned int b)
{
	return race_device(far_fd, HMM_DMIRROR_CHECK_EXCLUSIVE,
			   block_address(b), BLOCK_PAGES, NULL) &&
	       errno == EPERM;
}

/* A write of the CPU revokes the exclusive access. */
bool op_take_back(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool had;

	lock_contents(b);
	share_touch(b);
	had = make_exclusive(w, b) && is_exclusive(b);
	cpu_fill(b);
	if (is_exclusive(b))
		complain("block %u is exclusive after the CPU wrote to it\n",
			 b);
	unlock_touch(b);
	unlock_contents(b);
	return had;
}

/* Fork */

/* The child's own words, which are illegal for the parent, and vice versa. */
static int child_write(struct worker *w, unsigned int b, int fd)
{
	int ret;

	salt = race_mix(getpid());
	cpu_fill(b);
	if (fd < 0)
		return 0;
	race_change_begin(record(b), RACE_LEAVES_WORDS);
	fill(w->buffer, b, record(b)->begun);
	/* a part of the block, so that the rest remains to be copied */
	race_wait_for(!(ret = race_device(fd, HMM_DMIRROR_WRITE,
					  block_address(b), BLOCK_PAGES / 2,
					  w->buffer)) || errno != EBUSY,
		      limit / 2);
	if (ret)
		complain("device write of a child: %s\n", strerror(errno));
	return ret;
}

static void child_migrate(struct worker *w, unsigned int b, int fd)
{
	char *addr = block_address(b);

	if (fd < 0)
		return;
	race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, BLOCK_PAGES,
		    w->buffer);
	control->progress += is_near(fd, addr);
}

/*
 * The child shares the parent's table of files, so the devices that it opens
 * stay open in the parent. Pages of both may refer to the child's device, which
 * the dummy driver would otherwise free while they are in use.
 */
static int child(struct worker *w, unsigned int b)
{
	const uint32_t *words = (uint32_t *)block_address(b);
	bool device = race_below(&w->random, 2);
	int near = device ? race_open_device(near_device) : -1;
	int far = device ? race_open_device(near_device + 1) : -1;
	bool ok;

	if (device && (near < 0 || far < 0)) {
		complain("open of a device after fork: %s\n",
			 strerror(errno));
		return 1;
	}
	if (race_below(&w->random, 2))
		child_migrate(w, b, near);
	ok = check_at_rest("copy of the parent's memory", b, words);
	ok &= !child_write(w, b, far);
	child_migrate(w, b, near);
	ok &= check_at_rest("memory after fork", b, words);
	return ok ? 0 : 1;
}

bool op_fork_child(struct worker *w)
{
	unsigned int b = pick_block(w);
	int status = 0;
	pid_t pid;

	w->random = race_mix(w->random);
	lock_contents(b);
	share_touch(b);	/* the child must find it accessible */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		_exit(child(w, b));
	unlock_touch(b);
	unlock_contents(b);
	must(pid > 0, "fork");
	if (pid <= 0)
		return false;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		complain("a child ends by signal %d\n", WTERMSIG(status));
	return !status;
}

/* Remove the device's memory while all others go on. */
bool op_unplug(struct worker *w)
{
	int ret;

	race_pause_ms(1 + race_below(&w->random, 20));
	pthread_rwlock_wrlock(&plug);
	ret = race_device(near_fd, HMM_DMIRROR_RELEASE, NULL, 1, NULL);
	pthread_rwlock_unlock(&plug);
	must(!ret, "release of the device's memory");
	return !ret;
}
