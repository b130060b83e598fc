// SPDX-License-Identifier: GPL-2.0-only
/*
 * A QEMU plugin that counts how often each instruction of the guest runs
 * inside the windows of the benchmark (test_hmm_bench.c and hmm-bench.c),
 * without disturbing the guest.
 *
 * A window begins and ends with an RDTSC of the benchmark: in a kernel module,
 * or in a program at the usual address of a static one. Each of them toggles
 * counting, so a pause inside a window is excluded. An RDTSC of the kernel
 * image is ignored.
 *
 * Argument: out=FILE. It receives a line "ADDRESS COUNT" (hexadecimal, decimal)
 * for each instruction that ran.
 *
 * The declarations are those of version 1 of the plugin interface of QEMU.
 * Debian's QEMU has no header for it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
		void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int vcpu, void *data), int flags,
		void *data);
void qemu_plugin_register_atexit_cb(uint64_t id,
		void (*cb)(uint64_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *
qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);

int qemu_plugin_version = 1;

#define MODULES		0xffffffffa0000000UL
#define PROGRAM_END	0x10000000UL
#define NR_BUCKETS	(1U << 16)

struct counter {
	struct counter *next;
	uint64_t addr;
	uint64_t count;
	bool flips;
};

static struct counter *buckets[NR_BUCKETS];
static bool counting;
static const char *out_name;

static struct counter *counter_of(uint64_t addr)
{
	struct counter **head = &buckets[(addr ^ addr >> 16) % NR_BUCKETS];
	struct counter *counter;

	for (counter = *head; counter; counter = counter->next)
		if (counter->addr == addr)
			return counter;
	counter = calloc(1, sizeof(*counter));
	if (!counter)
		abort();
	counter->addr = addr;
	counter->next = *head;
	*head = counter;
	return counter;
}

static bool is_window_edge(struct qemu_plugin_insn *insn, uint64_t addr)
{
	static const unsigned char rdtsc[] = { 0x0f, 0x31 };

	if (addr < MODULES && addr >= PROGRAM_END)
		return false;
	return qemu_plugin_insn_size(insn) == sizeof(rdtsc) &&
	       !memcmp(qemu_plugin_insn_data(insn), rdtsc, sizeof(rdtsc));
}

static void insn_runs(unsigned int vcpu, void *data)
{
	struct counter *counter = data;

	(void)vcpu;
	if (counter->flips)
		counting = !counting;
	else if (counting)
		counter->count++;
}

static void tb_translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t addr = qemu_plugin_insn_vaddr(insn);
		struct counter *counter = counter_of(addr);

		counter->flips = is_window_edge(insn, addr);
		qemu_plugin_register_vcpu_insn_exec_cb(insn, insn_runs, 0,
						       counter);
	}
}

static void write_counts(uint64_t id, void *data)
{
	FILE *out = fopen(out_name, "w");
	struct counter *counter;
	unsigned int i;

	(void)id;
	(void)data;
	if (!out) {
		perror(out_name);
		return;
	}
	for (i = 0; i < NR_BUCKETS; i++)
		for (counter = buckets[i]; counter; counter = counter->next)
			if (counter->count)
				fprintf(out, "%llx %llu\n",
					(unsigned long long)counter->addr,
					(unsigned long long)counter->count);
	if (fclose(out))
		perror(out_name);
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "profile: usage: out=FILE\n");
		return -1;
	}
	out_name = strdup(argv[0] + 4);
	qemu_plugin_register_vcpu_tb_trans_cb(id, tb_translated);
	qemu_plugin_register_atexit_cb(id, write_counts, NULL);
	return out_name ? 0 : -1;
}
