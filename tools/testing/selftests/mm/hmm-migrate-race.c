// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race migration to a device and back against the rest of mm.
 *
 * Each scenario is a process of its own with an area of memory. Its threads
 * migrate parts of the area, write and read it by the CPU and by a device, and
 * make the changes that the scenario is about. The oracle (hmm_race_oracle.h)
 * judges each word and each error. Each block of pages has a record. The other
 * text that a change may leave is one that all blocks share, for KSM to merge.
 *
 * Devices
 *
 *   The "near" device owns the memory that pages migrate to. The "far" device
 *   reads and writes through its mirror. There are two because the dummy driver
 *   does not lock its page table against its own migrations: it can lose its
 *   own write, and it keeps entries for pages that were zapped while it copied.
 *   So that it does not read through such entries, ranges to migrate extend
 *   into a gap without access, which makes the driver return before it reads.
 *   A write to device memory in place locks all others out of the block.
 *
 * Locks
 *
 *   Each block has a mutex "contents", held while the contents change, and then
 *   a rwlock "touch": shared by CPU accesses, exclusive for threads that take
 *   the mapping away. A device takes "touch" only in scenarios that write in place,
 *   and mm's own threads take nothing. The order is by block, and contents
 *   before touch.
 *
 * The end
 *
 *   A role goes on until it has had an effect. Time only ends a run in which it
 *   never has one, or in which nothing makes progress.
 *
 *   A scenario may leave no memory in use that was free before. When its
 *   process is gone, no page may be left on the device: HMM_DMIRROR_RELEASE,
 *   which removes the device's memory, would wait for that page for ever. A
 *   counter of the process that is wrong shows on the console when the process
 *   exits.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "hmm_migrate_race_bodies.h"
#include "hmm_migrate_race_ops.h"
#include "hmm_migrate_race_roles.h"
#include "hmm_migrate_race_system.h"

/* The process of a scenario. */
static void run_scenario(void)
{
	struct usage before;

	swapped_before = race_read_number("/proc/vmstat", "pswpout");
	enter();
	if (scenario->body == kill_children) {
		kill_children();
		_exit(control->complaints ? KSFT_FAIL : KSFT_PASS);
	}
	before = usage_now();
	open_devices();
	set_up_area();
	if (scenario->flags & NEEDS_KSM)
		ksm_enter();
	if (scenario->body)
		scenario->body();
	else
		run_roles();
	if (lacks_swap())
		complain("no page was swapped out\n");
	munmap(area_start, BANKS * 2 * bank_size);
	munmap(blocks, nr_blocks * sizeof(*blocks));
	check_usage(&before);
	_exit(control->complaints ? KSFT_FAIL : KSFT_PASS);
}

/* Return: false if the process does not end, and makes no progress either. */
static bool wait_while_it_moves(pid_t pid, int *status)
{
	unsigned long before;

	do {
		before = control->progress;
		if (race_wait_child(pid, limit, status))
			return true;
	} while (control->progress != before);
	return false;
}

static int wait_for_scenario(pid_t pid)
{
	int status;

	if (wait_while_it_moves(pid, &status))
		return status;
	complain("no progress for %u s\n", limit);
	race_write_file("/proc/sysrq-trigger", "w");
	kill(pid, SIGKILL);
	if (race_wait_child(pid, limit, &status))
		return status;
	ksft_test_result_fail("%s, and it cannot be killed\n", scenario->name);
	ksft_exit_fail_msg("a process cannot be killed\n");
}

/* This works only when no page of the device is in use any more. */
static void release_device_memory(void)
{
	int status = race_release_device(near_device, limit);

	if (status < 0)
		complain("device pages are still in use after %u s\n", limit);
	else if (status)
		complain("release of the device's memory: status %#x\n",
			 status);
}

static int run_in_process(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		run_scenario();
	}
	status = wait_for_scenario(pid);
	/* its children, if it was killed */
	kill(-pid, SIGKILL);
	return status;
}

static void run_one(const char *kind)
{
	struct timespec start, end;
	const char *why;
	bool our_swap;
	int status;

	memset(control, 0, sizeof(*control));
	clock_gettime(CLOCK_MONOTONIC, &start);
	why = begin_outside(&our_swap);
	if (why) {
		race_swap_end(our_swap);
		ksft_test_result_skip("%s %s: %s\n", kind, scenario->name, why);
		return;
	}
	status = run_in_process();
	release_device_memory();
	end_outside(our_swap);
	clock_gettime(CLOCK_MONOTONIC, &end);
	note("%ld ms\n", (end.tv_sec - start.tv_sec) * 1000 +
	     (end.tv_nsec - start.tv_nsec) / 1000000);
	if (WIFSIGNALED(status))
		complain("ends by signal %d\n", WTERMSIG(status));
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		ksft_test_result_skip("%s %s: %s\n", kind, scenario->name,
				      control->skip);
	else
		ksft_test_result(!status && !control->complaints, "%s %s\n",
				 kind, scenario->name);
}

/* Roles of most scenarios */

static const struct role migrate[] = {
	{ "to device", op_to_device, 1, 100 },
	{ "to system", op_to_system, 1, 0 },
	{}
};

static const struct role by_cpu[] = {
	{ "CPU write", op_cpu_write, 1, 0 },
	{ "CPU read", op_cpu_read, 1, 0 },
	{}
};

static const struct role by_device[] = {
	{ "device write", op_far_write, 1, 0 },
	{ "device read", op_far_read, 1, 0 },
	{}
};

static const struct role in_place[] = {
	{ "device write in place", op_near_write, 1, 50 },
	{}
};

static const struct scenario scenarios[] = {
	{
		.name = "fork: parent and child keep their own values",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "fork", op_fork_child, 2, 20 },
		},
	}, {
		.name = "MADV_FREE and reclaim: no device write is lost",
		.flags = DISCARDS | IN_PLACE,
		.sets = { migrate, by_device, in_place },
		.roles = {
			{ "CPU read", op_cpu_read, 1, 0 },
			{ "MADV_FREE", op_let_free, 1, 100 },
			{ "pageout", op_page_out, 1, 100 },
		},
	}, {
		.name = "MADV_DONTNEED: discarded contents do not come back",
		.flags = DISCARDS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "MADV_DONTNEED", op_discard, 2, 100 },
		},
	}, {
		.name = "munmap and mmap: new memory has no old contents",
		.flags = DISCARDS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "remap", op_remap, 1, 100 },
		},
	}, {
		.name = "mremap: values move with their memory",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mremap", op_move, 1, 100 },
		},
	}, {
		.name = "mprotect: read-only stays read-only",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mprotect", op_protect, 1, 100 },
		},
	}, {
		.name = "KSM: merged pages keep their values",
		.flags = NEEDS_KSM,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "write for KSM", op_write_same, 1, 200 },
		},
	}, {
		.name = "compaction: no value is lost while pages move",
		.flags = IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "compaction", op_compact, 1, 10 },
		},
	}, {
		.name = "swap: no value is lost on the way out and in",
		.flags = NEEDS_SWAP | IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "pageout", op_page_out, 1, 50 },
		},
	}, {
		.name = "short pins: pinned pages get later writes",
		.flags = NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "pin", op_pin_short, 2, 100 },
			{ "vmsplice", op_splice_out, 1, 100 },
		},
	}, {
		.name = "long-term pins: pages stay where they are",
		.flags = NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "long-term pin", op_pin_long, 1, 100 },
			{ "pin", op_pin_short, 1, 100 },
		},
	}, {
		.name = "memcg limit: all charges come back",
		.flags = NEEDS_MEMCG | NEEDS_SWAP | IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "pageout", op_page_out, 1, 50 },
		},
	}, {
		.name = "full device: no page is lost when the last one is taken",
		.body = fill_up,
	}, {
		.name = "SIGKILL: device pages of killed processes become free",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mprotect", op_protect, 1, 0 },
		},
		.body = kill_children,
	}, {
		.name = "signals: interrupted operations complete or roll back",
		.flags = INTERRUPTS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "fork", op_fork_child, 1, 20 },
			{ "mprotect", op_protect, 1, 100 },
		},
	}, {
		.name = "faults of many threads: no addition is lost",
		.body = fault_together,
	}, {
		.name = "removal of device memory in use: no value is lost",
		.sets = { by_cpu, by_device },
		.roles = {
			{ "to device", op_to_device, 2, 0 },
			{ "removal", op_unplug, 1, 5 },
		},
	}, {
		.name = "exclusive access: CPU and fork take it back",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "exclusive", op_exclusive, 1, 100 },
			{ "revoke", op_take_back, 1, 100 },
			{ "fork", op_fork_child, 1, 20 },
		},
	}, {
		.name = "exclusive access: it ends when mappings change",
		.flags = DISCARDS | UNLOCKED_EXCLUSIVE,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "exclusive", op_exclusive, 2, 100 },
			{ "remap", op_remap, 1, 100 },
			{ "mprotect", op_protect, 1, 100 },
			{ "mremap", op_move, 1, 50 },
		},
	}, {
		.name = "all at once: no value is lost",
		.flags = DISCARDS | NEEDS_SWAP | NEEDS_KSM | NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "MADV_DONTNEED", op_discard, 1, 50 },
			{ "remap", op_remap, 1, 50 },
			{ "mprotect", op_protect, 1, 50 },
			{ "fork", op_fork_child, 1, 10 },
			{ "pin", op_pin_short, 1, 50 },
			{ "write for KSM", op_write_same, 1, 50 },
			{ "pageout", op_page_out, 1, 50 },
			{ "compaction", op_compact, 1, 5 },
		},
	},
};

static void run_kind(unsigned int device, const char *only)
{
	const char *kind;

	near_device = device;
	coherent = device >= 2;
	kind = coherent ? "coherent" : "private";
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
		scenario = &scenarios[i];
		if (!only || strstr(scenario->name, only))
			run_one(kind);
	}
}

static unsigned int count_scenarios(const char *only)
{
	unsigned int nr = 0;

	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
		nr += !only || strstr(scenarios[i].name, only);
	return nr;
}

#define USAGE	"usage: %s [-n iterations] [-s seed] [-t part of a name] " \
		"[-k p|c] [-T seconds without progress]\n"

/*
 * A bank has room for one PMD-mapped huge page of an ordinary size. The huge
 * pages of large base pages would be larger than the memory.
 */
static void choose_sizes(void)
{
	size_t huge = race_huge_size();

	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint32_t);
	block_size = BLOCK_PAGES * page_size;
	bank_size = 2 * MOST_BLOCKS * block_size;
	if (huge >= bank_size && huge <= MOST_BANK_PAGES * page_size)
		bank_size = huge;
	else
		race_note_huge_size(huge);
}

/* Which scenarios to run: with part of a name, on kinds of devices */
struct choice {
	const char *only;
	const char *kinds;
};

static struct choice parse(int argc, char **argv)
{
	struct choice choice = { .kinds = "pc" };
	int opt;

	while ((opt = getopt(argc, argv, "n:s:t:k:T:")) != -1) {
		if (opt == 'n')
			iterations = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			choice.only = optarg;
		else if (opt == 'k')
			choice.kinds = optarg;
		else if (opt == 'T')
			limit = strtoul(optarg, NULL, 0);
		else
			ksft_exit_fail_msg(USAGE, argv[0]);
	}
	if (!iterations || !limit || !count_scenarios(choice.only))
		ksft_exit_fail_msg("nothing to do\n");
	return choice;
}

int main(int argc, char **argv)
{
	bool private, with_coherent;
	struct choice choice;

	ksft_print_header();
	seed = time(NULL);
	choice = parse(argc, argv);
	choose_sizes();
	private = !access("/dev/hmm_dmirror1", R_OK | W_OK) &&
		  strchr(choice.kinds, 'p');
	with_coherent = !access("/dev/hmm_dmirror3", R_OK | W_OK) &&
			strchr(choice.kinds, 'c');
	if (!private && !with_coherent)
		ksft_exit_skip("no /dev/hmm_dmirror*: load test_hmm\n");
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	ksft_print_msg("seed %llu, %lu iterations, a hang is %u s without progress\n",
		       (unsigned long long)seed, iterations, limit);
	ksft_set_plan(count_scenarios(choice.only) * (private + with_coherent));
	if (private)
		run_kind(0, choice.only);
	if (with_coherent)
		run_kind(2, choice.only);
	ksft_finished();
}
