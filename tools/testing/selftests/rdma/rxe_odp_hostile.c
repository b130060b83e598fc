// SPDX-License-Identifier: GPL-2.0-only
/*
 * On-demand paging of soft-RoCE under programs that do what they should not, and
 * under processes, regions and devices that go away at the wrong moment. What is
 * wrong gets an error, nothing hangs, and the next user finds a device that
 * works.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <rdma/ib_user_ioctl_verbs.h>

#include "../kselftest.h"
#include "rxe_odp_common.h"

#define SIZE	(16 * PAGE)

static struct device dev;

/* One write with a key, an address and a length of the caller's choice */
static int write_to(uint32_t lkey, uint64_t laddr, uint32_t rkey,
		    uint64_t raddr, uint32_t size)
{
	struct ibv_sge sge = { laddr, size, lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = { raddr, rkey },
	};
	struct pair pair;
	int ret;

	pair_open(&pair, &dev, &usual);
	ret = post_and_wait(&pair, &wr);
	pair_close(&pair);
	return ret;
}

static bool works(void)
{
	struct buffer from, to;
	struct pair pair;
	enum op op;
	bool ok = true;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, SIZE, ODP);
	buffer_open(&to, &dev, SIZE, ODP);
	for (op = 0; op < NR_OPS; op++) {
		fill(from.p, SIZE, op);
		int ret = transfer(&pair, op, &from, 1, &to, 3, 3 * PAGE);

		if (ret || differs(to.p, 3, 3 * PAGE, op, 1) >= 0) {
			ksft_print_msg("%s: status %d\n", op_name[op], ret);
			ok = false;
		}
	}
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
	return ok;
}

static void keys(void)
{
	struct buffer from, to, other;
	struct ibv_pd *pd = ibv_alloc_pd(dev.context);
	struct ibv_mr *foreign;
	uint32_t gone;
	int ret[6];

	buffer_open(&from, &dev, SIZE, ODP);
	buffer_open(&to, &dev, SIZE, ODP);
	buffer_open(&other, &dev, SIZE, ODP);
	gone = other.mr->rkey;
	buffer_close(&other);
	foreign = ibv_reg_mr(pd, to.p, SIZE, ALL_ACCESS | ODP);
	ret[0] = write_to(from.mr->lkey, from.iova, foreign->rkey, to.iova, 9);
	ret[1] = write_to(from.mr->lkey, from.iova, gone, to.iova, 9);
	ret[2] = write_to(from.mr->lkey, from.iova, to.mr->rkey ^ 0x55, to.iova,
			  9);
	ret[3] = write_to(foreign->lkey, to.iova, to.mr->rkey, to.iova, 9);
	ret[4] = write_to(from.mr->lkey, from.iova, from.mr->rkey, to.iova, 9);
	ret[5] = write_to(from.mr->lkey, from.iova, to.mr->rkey, to.iova, 9);
	ksft_test_result(ret[0] == IBV_WC_REM_ACCESS_ERR &&
			 ret[1] == IBV_WC_REM_ACCESS_ERR &&
			 ret[2] == IBV_WC_REM_ACCESS_ERR && ret[3] > 0 &&
			 ret[4] == IBV_WC_REM_ACCESS_ERR && !ret[5],
			 "hostile.keys_of_other_regions # %d %d %d %d %d %d\n",
			 ret[0], ret[1], ret[2], ret[3], ret[4], ret[5]);
	ibv_dereg_mr(foreign);
	ibv_dealloc_pd(pd);
	buffer_close(&from);
	buffer_close(&to);
}

/* Both sides, and sums that overflow */
static void ranges(void)
{
	static const struct {
		uint64_t at;
		uint32_t size;
	} bad[] = {
		{ -1, 8 }, { SIZE, 1 }, { SIZE - 1, 2 }, { 0, SIZE + 1 },
		{ 1, ~0U >> 1 }, { -SIZE, SIZE }, { 1ULL << 63, 8 },
		{ ~0ULL - 3, 8 },
	};
	unsigned int i, wrong = 0;
	struct buffer from, to;

	buffer_open(&from, &dev, SIZE, ODP);
	buffer_open(&to, &dev, SIZE, ODP);
	fill(to.p, SIZE, 1);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct buffer large = from;

		/* the local side must be good for the remote one to be asked */
		if (bad[i].size > SIZE)
			buffer_open(&large, &dev, 1UL << 31, ODP);
		wrong += write_to(large.mr->lkey, large.iova, to.mr->rkey,
				  to.iova + bad[i].at, bad[i].size) !=
			 IBV_WC_REM_ACCESS_ERR;
		if (bad[i].size > SIZE)
			buffer_close(&large);
		wrong += write_to(from.mr->lkey, from.iova + bad[i].at,
				  to.mr->rkey, to.iova, bad[i].size) <= 0;
	}
	wrong += write_to(from.mr->lkey, ~0ULL - 3, to.mr->rkey, ~0ULL - 3, 8) <=
		 0;
	ksft_test_result(!wrong && differs(to.p, 0, SIZE, 1, 0) < 0,
			 "hostile.ranges_outside_of_a_region # %u of %zu wrong\n",
			 wrong, 2 * ARRAY_SIZE(bad) + 1);
	buffer_close(&from);
	buffer_close(&to);
}

/* The region allows it, and the process does not, or no more. */
static void protection(void)
{
	struct buffer from, to;
	struct ibv_mr *ro;
	int ret[5];

	buffer_open(&from, &dev, SIZE, ODP);
	buffer_open(&to, &dev, SIZE, ODP);
	fill(to.p, SIZE, 1);
	mprotect(to.p, SIZE, PROT_READ);
	ret[0] = write_to(from.mr->lkey, from.iova, to.mr->rkey, to.iova, 99);
	ret[1] = write_to(to.mr->lkey, to.iova, from.mr->rkey, from.iova, 99);
	mprotect(to.p, SIZE, PROT_NONE);
	ret[2] = write_to(to.mr->lkey, to.iova, from.mr->rkey, from.iova, 99);
	mprotect(to.p, SIZE, PROT_READ | PROT_WRITE);
	ro = ibv_reg_mr(dev.pd, to.p, SIZE, IBV_ACCESS_REMOTE_READ | ODP);
	ret[3] = write_to(from.mr->lkey, from.iova, ro->rkey, to.iova, 99);
	ibv_dereg_mr(ro);
	munmap(to.p + PAGE, PAGE);
	ret[4] = write_to(from.mr->lkey, from.iova, to.mr->rkey,
			  to.iova + PAGE - 1, 2);
	ksft_test_result(ret[0] == IBV_WC_REM_ACCESS_ERR && !ret[1] &&
			 ret[2] > 0 && ret[3] == IBV_WC_REM_ACCESS_ERR &&
			 ret[4] == IBV_WC_REM_ACCESS_ERR &&
			 differs(to.p, 0, PAGE, 1, 0) < 0,
			 "hostile.memory_is_protected # %d %d %d %d %d\n",
			 ret[0], ret[1], ret[2], ret[3], ret[4]);
	buffer_close(&from);
	buffer_close(&to);
}

/* In a child, whose limit it is */
static int without_locked_memory(void)
{
	struct rlimit none = { 0, 0 };
	struct ibv_mr *odp, *pinned;
	uint8_t *p = memory(SIZE);

	/* capabilities go with the user, who has to open the device again */
	if (setrlimit(RLIMIT_MEMLOCK, &none) ||
	    chmod("/dev/infiniband/uverbs0", 0666) || seteuid(65534))
		return 1;
	device_open(&dev);
	pinned = ibv_reg_mr(dev.pd, p, SIZE, ALL_ACCESS);
	if (pinned)
		return 2;
	odp = ibv_reg_mr(dev.pd, p, SIZE, ALL_ACCESS | ODP);
	if (!odp)
		return 3;
	return works() ? 0 : 4;
}

static int status_of(int (*run)(void), int kill_after_ms)
{
	int status = -1, ms;
	pid_t pid = fork();

	if (!pid) {
		device_open(&dev);
		_exit(run());
	}
	for (ms = 0; ms < 20000; ms++) {
		if (ms == kill_after_ms)
			kill(pid, SIGKILL);
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(1000);
	}
	return -1;
}

static void locked_memory(void)
{
	int status = status_of(without_locked_memory, -1);

	ksft_test_result(!status, "hostile.limit_of_locked_memory_is_0 # status %d\n",
			 status);
}

struct traffic {
	struct buffer from, to;
	volatile bool stop;
	unsigned long good, bad;
};

/* Errors are expected, so open a new pair after each. */
static void *run_traffic(void *data)
{
	struct traffic *traffic = data;
	struct pair pair;
	unsigned int i;

	pair_open(&pair, &dev, &usual);
	for (i = 0; !traffic->stop; i++) {
		/* a copy: the region may be another one by now */
		struct buffer from = traffic->from, to = traffic->to;
		struct ibv_mr from_mr = *from.mr, to_mr = *to.mr;

		from.mr = &from_mr;
		to.mr = &to_mr;
		if (!transfer(&pair, i % NR_OPS, &from, 5, &to, PAGE - 3,
			      3 * PAGE)) {
			traffic->good++;
			continue;
		}
		traffic->bad++;
		pair_close(&pair);
		pair_open(&pair, &dev, &usual);
	}
	pair_close(&pair);
	return NULL;
}

static void deregistration(void)
{
	struct traffic traffic = {};
	pthread_t thread;
	unsigned int i;

	buffer_open(&traffic.from, &dev, SIZE, ODP);
	buffer_open(&traffic.to, &dev, SIZE, ODP);
	pthread_create(&thread, NULL, run_traffic, &traffic);
	for (i = 0; i < 100; i++) {
		struct buffer *buf = i % 2 ? &traffic.from : &traffic.to;
		struct ibv_mr *old = buf->mr;

		usleep(i * 200);
		madvise(buf->p, SIZE, MADV_DONTNEED);
		buf->mr = ibv_reg_mr(dev.pd, buf->p, SIZE, ALL_ACCESS | ODP);
		ibv_dereg_mr(old);
	}
	traffic.stop = true;
	pthread_join(thread, NULL);
	ksft_test_result(traffic.good && works(),
			 "hostile.deregistration_beside_traffic # %lu good, %lu failed\n",
			 traffic.good, traffic.bad);
	buffer_close(&traffic.from);
	buffer_close(&traffic.to);
}

/* Traffic, and prefetch of much more than there is time for */
static int busy(void)
{
	struct traffic traffic = {};
	struct buffer large;
	struct ibv_sge sge;

	buffer_open(&traffic.from, &dev, SIZE, ODP);
	buffer_open(&traffic.to, &dev, SIZE, ODP);
	buffer_open(&large, &dev, 512UL << 20, ODP);
	sge = (struct ibv_sge) { large.iova, large.size, large.mr->lkey };
	advise(&dev, IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE, 0, &sge, 1);
	run_traffic(&traffic);
	return 0;
}

static void killed(void)
{
	unsigned int i, wrong = 0;

	for (i = 0; i < 20; i++)
		wrong += !WIFSIGNALED(status_of(busy, 20 + i * 37));
	ksft_test_result(!wrong && works(),
			 "hostile.process_is_killed_beside_traffic # %u of 20 wrong\n",
			 wrong);
}

/*
 * A window holds its queue pair and its region. The window is older, so it goes
 * last when the process exits.
 */
static int leave_a_window_bound(void)
{
	struct ibv_mw *mw = ibv_alloc_mw(dev.pd, IBV_MW_TYPE_2);
	uint8_t *p = memory(SIZE);
	struct ibv_send_wr wr = { .opcode = IBV_WR_BIND_MW };
	struct pair pair;
	struct ibv_mr *mr;

	pair_open(&pair, &dev, &usual);
	mr = ibv_reg_mr(dev.pd, p, SIZE, ALL_ACCESS | IBV_ACCESS_MW_BIND | ODP);
	if (!mw || !mr)
		return 1;
	wr.bind_mw.mw = mw;
	wr.bind_mw.rkey = ibv_inc_rkey(mw->rkey);
	wr.bind_mw.bind_info = (struct ibv_mw_bind_info) {
		mr, (uintptr_t)p, SIZE, IBV_ACCESS_REMOTE_WRITE,
	};
	if (post_and_wait(&pair, &wr))
		return 2;
	if (ibv_destroy_qp(pair.qp[0]) != EBUSY)
		return 3;
	return ibv_dereg_mr(mr) == EINVAL ? 0 : 4;
}

static void windows(void)
{
	int status = status_of(leave_a_window_bound, -1);

	ksft_test_result(!status && works(),
			 "hostile.windows_are_bound_at_exit # status %#x\n",
			 status);
}

static bool is_in_error(struct ibv_qp *qp)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr = {};

	return !ibv_query_qp(qp, &attr, IBV_QP_STATE, &init) &&
	       attr.qp_state == IBV_QPS_ERR;
}

/* Nobody polls, so at some time a write with immediate data has no room. */
static int leave_a_queue_full(void)
{
	struct buffer from, to;
	struct ibv_send_wr *bad, wr = { .num_sge = 1 };
	struct ibv_sge sge;
	struct pair pair;
	unsigned int i;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, SIZE, ODP);
	buffer_open(&to, &dev, SIZE, ODP);
	sge = (struct ibv_sge) { from.iova, 99, from.mr->lkey };
	wr.sg_list = &sge;
	wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
	wr.wr.rdma.remote_addr = to.iova;
	wr.wr.rdma.rkey = to.mr->rkey;
	for (i = 0; i < 20000 && !is_in_error(pair.qp[1]); i++) {
		receive_into(&pair, &to, 0, SIZE);
		ibv_post_send(pair.qp[0], &wr, &bad);
		usleep(500);
	}
	return is_in_error(pair.qp[1]) ? 0 : 1;
}

static void full_queue(void)
{
	int status = status_of(leave_a_queue_full, -1);

	ksft_test_result(!status && works(),
			 "hostile.completion_queue_is_full_at_exit # status %#x\n",
			 status);
}

static void *prefetch_for_ever(void *data)
{
	struct traffic *traffic = data;

	while (!traffic->stop) {
		struct ibv_sge sge = { traffic->to.iova, SIZE,
				       traffic->to.mr->lkey };

		advise(&dev, IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE, 0, &sge,
		       1);
	}
	return NULL;
}

/* What the process unmaps is not there any more, and comes back as zeroes. */
static void unmapping(void)
{
	struct traffic traffic = {};
	pthread_t thread[2];
	unsigned int i;

	buffer_open(&traffic.from, &dev, SIZE, ODP);
	buffer_open(&traffic.to, &dev, SIZE, ODP);
	pthread_create(&thread[0], NULL, run_traffic, &traffic);
	pthread_create(&thread[1], NULL, prefetch_for_ever, &traffic);
	for (i = 0; i < 200; i++) {
		munmap(traffic.to.p, SIZE);
		usleep(i * 10);
		if (mmap(traffic.to.p, SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
		    traffic.to.p)
			ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
		usleep(1000);
	}
	traffic.stop = true;
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	ksft_test_result(traffic.good && works(),
			 "hostile.unmapping_beside_traffic_and_prefetch # %lu good, %lu failed\n",
			 traffic.good, traffic.bad);
	buffer_close(&traffic.from);
	buffer_close(&traffic.to);
}

static bool ends(pid_t pid, int *status, unsigned int ms)
{
	for (; ms; ms--) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		usleep(1000);
	}
	return false;
}

/*
 * soft-RoCE cannot take a device away from its users: the removal waits until
 * they have gone.
 */
static void removal(void)
{
	pid_t user, remover;
	int status = -1;
	bool gone, good;

	device_close(&dev);
	user = fork();
	if (!user) {
		device_open(&dev);
		_exit(busy());
	}
	usleep(500000);
	remover = fork();
	if (!remover)
		_exit(system("rdma link delete rxe0") != 0);
	usleep(500000);
	kill(user, SIGKILL);
	gone = ends(user, &status, 20000) && ends(remover, &status, 20000) &&
	       !status;
	good = !system("rdma link add rxe0 type rxe netdev dummy0");
	sleep(2);
	device_open(&dev);
	ksft_test_result(gone && good && works(),
			 "hostile.device_is_removed_beside_traffic # removed %d, added %d\n",
			 gone, good);
}

int main(void)
{
	ksft_print_header();
	ksft_set_plan(10);
	device_open(&dev);
	keys();
	ranges();
	protection();
	locked_memory();
	deregistration();
	killed();
	unmapping();
	windows();
	full_queue();
	removal();
	device_close(&dev);
	ksft_finished();
}
