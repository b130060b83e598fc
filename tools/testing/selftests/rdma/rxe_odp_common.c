// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <rdma/rdma_user_rxe.h>

#include "../kselftest.h"
#include "rxe_odp_common.h"

#define SECONDS		20

const char *const op_name[NR_OPS] = { "write", "read", "send" };

const struct options usual = {
	.mtu = IBV_MTU_1024,
	.timeout = 18,
	.retries = 7,
};

static void must(bool ok, const char *what)
{
	if (!ok)
		ksft_exit_fail_msg("%s: %s\n", what, strerror(errno));
}

void device_open(struct device *dev)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	union ibv_gid gid;

	must(list && list[0], "no RDMA device");
	dev->context = ibv_open_device(list[0]);
	must(dev->context, "open the device");
	ibv_free_device_list(list);
	dev->pd = ibv_alloc_pd(dev->context);
	must(dev->pd, "protection domain");
	/* the first GID may be one that no packet can carry */
	for (dev->gid_index = 7; dev->gid_index; dev->gid_index--)
		if (!ibv_query_gid(dev->context, 1, dev->gid_index, &gid) &&
		    gid.global.interface_id)
			break;
}

void device_close(struct device *dev)
{
	must(!ibv_dealloc_pd(dev->pd), "dealloc the protection domain");
	must(!ibv_close_device(dev->context), "close the device");
}

static struct ibv_qp *qp_create(struct pair *pair, struct device *dev,
				struct ibv_srq *srq)
{
	struct ibv_qp_init_attr_ex init = {
		.send_cq = pair->cq,
		.recv_cq = pair->cq,
		.srq = srq,
		.cap = { 64, 64, 4, 4, 0 },
		.qp_type = IBV_QPT_RC,
		.pd = dev->pd,
		.comp_mask = IBV_QP_INIT_ATTR_PD |
			     IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
		.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE,
	};
	struct ibv_qp *qp = ibv_create_qp_ex(dev->context, &init);
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = ALL_ACCESS | FLUSH_ACCESS,
	};

	must(qp, "create a queue pair");
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX |
			    IBV_QP_PORT | IBV_QP_ACCESS_FLAGS), "QP to INIT");
	return qp;
}

static void qp_join(struct ibv_qp *qp, struct device *dev, uint32_t peer,
		    const struct options *options)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = options->mtu,
		.dest_qp_num = peer,
		.max_dest_rd_atomic = 4,
		.min_rnr_timer = 12,
		.ah_attr = {
			.is_global = 1,
			.port_num = 1,
			.grh = { .hop_limit = 1, .sgid_index = dev->gid_index },
		},
	};

	ibv_query_gid(dev->context, 1, dev->gid_index, &attr.ah_attr.grh.dgid);
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV |
			    IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
			    IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
	     "QP to RTR");
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = options->timeout;
	attr.retry_cnt = options->retries;
	attr.rnr_retry = 7;
	attr.max_rd_atomic = 4;
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT |
			    IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
			    IBV_QP_MAX_QP_RD_ATOMIC), "QP to RTS");
}

void pair_open(struct pair *pair, struct device *dev,
	       const struct options *options)
{
	struct ibv_srq_init_attr srq = { .attr = { 64, 4, 0 } };

	pair->cq = ibv_create_cq(dev->context, 256, NULL, NULL, 0);
	must(pair->cq, "create a completion queue");
	pair->srq = options->with_srq ? ibv_create_srq(dev->pd, &srq) : NULL;
	must(pair->srq || !options->with_srq, "create a receive queue");
	pair->qp[0] = qp_create(pair, dev, NULL);
	pair->qp[1] = qp_create(pair, dev, pair->srq);
	qp_join(pair->qp[0], dev, pair->qp[1]->qp_num, options);
	qp_join(pair->qp[1], dev, pair->qp[0]->qp_num, options);
}

void pair_close(struct pair *pair)
{
	must(!ibv_destroy_qp(pair->qp[0]), "destroy a queue pair");
	must(!ibv_destroy_qp(pair->qp[1]), "destroy a queue pair");
	must(!pair->srq || !ibv_destroy_srq(pair->srq), "destroy a queue");
	must(!ibv_destroy_cq(pair->cq), "destroy a completion queue");
}

/* Aligned to a huge page, with nothing mapped around it. */
uint8_t *memory(size_t size)
{
	uint8_t *p = mmap(NULL, size + 2 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	must(p != MAP_FAILED, "mmap");
	p = (uint8_t *)(((uintptr_t)p + HUGE_PAGE) & -HUGE_PAGE);
	must(mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		  MAP_NORESERVE | MAP_FIXED, -1, 0) == p, "mmap");
	return p;
}

void buffer_register(struct buffer *buf, struct device *dev, enum kind kind)
{
	buf->iova = (uintptr_t)buf->p;
	buf->mr = ibv_reg_mr(dev->pd, buf->p, buf->size, ALL_ACCESS | kind);
	must(buf->mr, "register memory");
}

void buffer_open(struct buffer *buf, struct device *dev, size_t size,
		 enum kind kind)
{
	buf->p = memory(size);
	buf->size = size;
	buffer_register(buf, dev, kind);
}

void buffer_close(struct buffer *buf)
{
	must(!ibv_dereg_mr(buf->mr), "deregister memory");
	munmap(buf->p, buf->size);
}

/* No two pages, and no two parts of a page, have the same contents. */
static uint8_t byte_at(size_t position, unsigned int seed)
{
	return (position * 131 + (position >> 8) * 17 + (position >> 12) * 59 +
		(position >> 16) * 29) ^ seed;
}

void fill(uint8_t *p, size_t size, unsigned int seed)
{
	size_t i;

	for (i = 0; i < size; i++)
		p[i] = byte_at(i, seed);
}

/* First offset at which p differs from what was filled at @position, or -1. */
long differs(const uint8_t *p, size_t from, size_t size, unsigned int seed,
	     size_t position)
{
	size_t i;

	for (i = 0; i < size; i++)
		if (p[from + i] != byte_at(position + i, seed))
			return from + i;
	return -1;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int wait_for(struct pair *pair, unsigned int completions)
{
	double end = now() + SECONDS;
	struct ibv_wc wc;
	int worst = IBV_WC_SUCCESS;

	while (completions) {
		int nr = ibv_poll_cq(pair->cq, 1, &wc);

		if (nr < 0 || (!nr && now() > end))
			return -1;
		if (!nr)
			continue;
		completions--;
		/* a flushed request tells nothing about the reason */
		if (wc.status != IBV_WC_SUCCESS &&
		    (worst == IBV_WC_SUCCESS || worst == IBV_WC_WR_FLUSH_ERR))
			worst = wc.status;
		if (wc.status != IBV_WC_SUCCESS && !(wc.opcode & IBV_WC_RECV))
			return worst;
	}
	return worst;
}

int post_and_wait(struct pair *pair, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	wr->send_flags |= IBV_SEND_SIGNALED;
	if (ibv_post_send(pair->qp[0], wr, &bad))
		return -1;
	return wait_for(pair, 1);
}

int receive_into(struct pair *pair, struct buffer *to, size_t at, size_t size)
{
	struct ibv_sge sge = { to->iova + at, size, to->mr->lkey };
	struct ibv_recv_wr wr = { .sg_list = &sge, .num_sge = 1 }, *bad;

	return pair->srq ? ibv_post_srq_recv(pair->srq, &wr, &bad) :
			   ibv_post_recv(pair->qp[1], &wr, &bad);
}

int transfer(struct pair *pair, enum op op, struct buffer *from, size_t from_at,
	     struct buffer *to, size_t to_at, size_t size)
{
	struct buffer *local = op == OP_READ ? to : from;
	struct buffer *remote = op == OP_READ ? from : to;
	size_t local_at = op == OP_READ ? to_at : from_at;
	size_t remote_at = op == OP_READ ? from_at : to_at;
	struct ibv_sge sge = { local->iova + local_at, size, local->mr->lkey };
	struct ibv_send_wr *bad, wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = op == OP_WRITE ? IBV_WR_RDMA_WRITE :
			  op == OP_READ ? IBV_WR_RDMA_READ : IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { remote->iova + remote_at, remote->mr->rkey },
	};

	if (op == OP_SEND && receive_into(pair, to, to_at, size))
		return -1;
	if (ibv_post_send(pair->qp[0], &wr, &bad))
		return -1;
	return wait_for(pair, op == OP_SEND ? 2 : 1);
}

static int atomic(struct pair *pair, enum ibv_wr_opcode opcode,
		  struct buffer *buf, size_t at, uint64_t compare_add,
		  uint64_t swap, struct buffer *old)
{
	struct ibv_sge sge = { old->iova, sizeof(uint64_t), old->mr->lkey };
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = opcode,
		.wr.atomic = { buf->iova + at, compare_add, swap,
			       buf->mr->rkey },
	};

	return post_and_wait(pair, &wr);
}

int fetch_add(struct pair *pair, struct buffer *buf, size_t at, uint64_t add,
	      struct buffer *old)
{
	return atomic(pair, IBV_WR_ATOMIC_FETCH_AND_ADD, buf, at, add, 0, old);
}

int compare_swap(struct pair *pair, struct buffer *buf, size_t at,
		 uint64_t compare, uint64_t swap, struct buffer *old)
{
	return atomic(pair, IBV_WR_ATOMIC_CMP_AND_SWP, buf, at, compare, swap,
		      old);
}

/* The request that was just written to a queue that the kernel shares */
static struct rxe_send_wqe *find_request(uint64_t id)
{
	struct rxe_send_wqe *found = NULL;
	unsigned long start, end;
	char line[512];
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && !found && fgets(line, sizeof(line), f)) {
		uint64_t *p;

		if (!strstr(line, "uverbs") ||
		    sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		for (p = (uint64_t *)start; p < (uint64_t *)end && !found; p++)
			if (*p == id)
				found = (struct rxe_send_wqe *)p;
	}
	if (f)
		fclose(f);
	return found;
}

/*
 * Post an operation that the library does not know, or does not let through: as
 * a write, whose request is then changed in the queue.
 */
static int post_raw(struct pair *pair, uint32_t opcode, struct ibv_sge *sge,
		    void (*change)(struct rxe_send_wqe *wqe, const void *how),
		    const void *how)
{
	struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(pair->qp[0]);
	static uint64_t id = 0x5ca1ab1e00000000ULL;
	struct rxe_send_wqe *wqe;

	ibv_wr_start(qp);
	qp->wr_id = ++id;
	qp->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_rdma_write(qp, 1, 0);
	ibv_wr_set_sge(qp, sge->lkey, sge->addr, sge->length);
	wqe = find_request(id);
	must(wqe, "find the request");
	wqe->wr.opcode = opcode;
	change(wqe, how);
	if (ibv_wr_complete(qp))
		return -1;
	return wait_for(pair, 1);
}

struct flush {
	uint64_t addr;
	uint32_t size, key;
	uint8_t type, level;
};

static void make_flush(struct rxe_send_wqe *wqe, const void *how)
{
	const struct flush *flush = how;

	wqe->wr.wr.flush.remote_addr = flush->addr;
	wqe->wr.wr.flush.length = flush->size;
	wqe->wr.wr.flush.rkey = flush->key;
	wqe->wr.wr.flush.type = flush->type;
	wqe->wr.wr.flush.level = flush->level;
	wqe->dma.length = flush->size;
	wqe->dma.resid = flush->size;
	wqe->dma.num_sge = 0;
	wqe->iova = flush->addr;
}

int flush(struct pair *pair, struct buffer *buf, size_t at, size_t size,
	  unsigned int type, unsigned int level)
{
	struct flush how = { buf->iova + at, size, buf->mr->rkey, type, level };
	struct ibv_sge none = {};

	return post_raw(pair, IB_UVERBS_WR_FLUSH, &none, make_flush, &how);
}

struct word {
	uint64_t addr, value;
	uint32_t key;
};

static void make_atomic_write(struct rxe_send_wqe *wqe, const void *how)
{
	const struct word *word = how;

	wqe->wr.wr.rdma.remote_addr = word->addr;
	wqe->wr.wr.rdma.rkey = word->key;
	wqe->dma.length = sizeof(word->value);
	wqe->dma.resid = sizeof(word->value);
	wqe->dma.num_sge = 0;
	memcpy(wqe->dma.atomic_wr, &word->value, sizeof(word->value));
	wqe->iova = word->addr;
}

int atomic_write(struct pair *pair, struct buffer *buf, size_t at,
		 uint64_t value)
{
	struct word how = { buf->iova + at, value, buf->mr->rkey };
	struct ibv_sge none = {};

	return post_raw(pair, IB_UVERBS_WR_ATOMIC_WRITE, &none,
			make_atomic_write, &how);
}

static void make_fetch_add(struct rxe_send_wqe *wqe, const void *how)
{
	const struct word *word = how;

	wqe->wr.wr.atomic.remote_addr = word->addr;
	wqe->wr.wr.atomic.compare_add = word->value;
	wqe->wr.wr.atomic.swap = 0;
	wqe->wr.wr.atomic.rkey = word->key;
	wqe->iova = word->addr;
}

/* As fetch_add(), at any offset */
int fetch_add_anywhere(struct pair *pair, struct buffer *buf, size_t at,
		       uint64_t add, struct buffer *old)
{
	struct word how = { buf->iova + at, add, buf->mr->rkey };
	struct ibv_sge sge = { old->iova, sizeof(uint64_t), old->mr->lkey };

	return post_raw(pair, IB_UVERBS_WR_ATOMIC_FETCH_AND_ADD, &sge,
			make_fetch_add, &how);
}

/* Return 0 or an error number. */
int advise(struct device *dev, unsigned int advice, unsigned int flags,
	   struct ibv_sge *sge, unsigned int nr)
{
	struct {
		struct ib_uverbs_ioctl_hdr hdr;
		struct ib_uverbs_attr attrs[4];
	} cmd = {
		.hdr = {
			.length = sizeof(cmd),
			.object_id = UVERBS_OBJECT_MR,
			.method_id = UVERBS_METHOD_ADVISE_MR,
			.num_attrs = 4,
			.driver_id = RDMA_DRIVER_RXE,
		},
		.attrs = {
			{ .attr_id = UVERBS_ATTR_ADVISE_MR_PD_HANDLE,
			  .flags = UVERBS_ATTR_F_MANDATORY,
			  .data = dev->pd->handle },
			{ .attr_id = UVERBS_ATTR_ADVISE_MR_ADVICE,
			  .flags = UVERBS_ATTR_F_MANDATORY, .len = 8,
			  .data = advice },
			{ .attr_id = UVERBS_ATTR_ADVISE_MR_FLAGS,
			  .flags = UVERBS_ATTR_F_MANDATORY, .len = 4,
			  .data = flags },
			{ .attr_id = UVERBS_ATTR_ADVISE_MR_SGE_LIST,
			  .flags = UVERBS_ATTR_F_MANDATORY,
			  .len = nr * sizeof(*sge),
			  .data = (uintptr_t)sge },
		},
	};

	return ioctl(dev->context->cmd_fd, RDMA_VERBS_IOCTL, &cmd) ? errno : 0;
}

/* A field of /proc/self/status in KiB */
long status_kib(const char *field)
{
	FILE *f = fopen("/proc/self/status", "r");
	size_t n = strlen(field);
	char line[256];
	long kib = -1;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, n) && line[n] == ':')
			kib = atol(line + n + 1);
	if (f)
		fclose(f);
	return kib;
}

void write_file(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY);

	must(fd >= 0 && write(fd, text, strlen(text)) > 0, name);
	close(fd);
}
