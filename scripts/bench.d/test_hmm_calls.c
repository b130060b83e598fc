// SPDX-License-Identifier: GPL-2.0
/*
 * Count the calls of migrate_to_ram(), of all drivers.
 *
 * Reading the module parameter "calls" returns the number of calls since it was
 * last written. Writing it also searches for device-private memory, and
 * replaces the operations of its pagemap by a copy with a migrate_to_ram() that
 * counts. This works with any kernel, so that two kernels can be compared.
 *
 * Load the module after the driver and unload it before the driver: it holds no
 * reference to the pagemaps.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pfn.h>
#include <linux/sysfs.h>

#define MOST_PAGEMAPS	16

/**
 * struct counted - a pagemap whose faults are counted
 * @pgmap: the pagemap
 * @was: the operations of the driver
 * @ops: the operations that count
 */
struct counted {
	struct dev_pagemap *pgmap;
	const struct dev_pagemap_ops *was;
	struct dev_pagemap_ops ops;
};

/* Entries are only added, under the lock of the module parameters. */
static struct counted counted[MOST_PAGEMAPS];
static unsigned int nr_counted;

static atomic_long_t calls;

static vm_fault_t count_call(struct vm_fault *vmf)
{
	const struct dev_pagemap_ops *ops = page_folio(vmf->page)->page.pgmap->ops;

	atomic_long_inc(&calls);
	return container_of(ops, struct counted, ops)->was->migrate_to_ram(vmf);
}

static void count_pagemap(struct dev_pagemap *pgmap)
{
	struct counted *c = &counted[nr_counted++];

	c->pgmap = pgmap;
	c->was = pgmap->ops;
	c->ops = *pgmap->ops;
	c->ops.migrate_to_ram = count_call;
	WRITE_ONCE(pgmap->ops, &c->ops);
}

static int count_region(struct resource *res, void *data)
{
	struct dev_pagemap *pgmap = get_dev_pagemap(PHYS_PFN(res->start), NULL);
	int ret = 0;

	if (!pgmap)
		return 0;
	if (nr_counted == MOST_PAGEMAPS)
		ret = -ENOSPC;
	else if (pgmap->ops && pgmap->ops->migrate_to_ram &&
		 pgmap->ops->migrate_to_ram != count_call)
		count_pagemap(pgmap);
	put_dev_pagemap(pgmap);
	return ret;
}

static int calls_set(const char *value, const struct kernel_param *param)
{
	long number;
	int ret = kstrtol(value, 0, &number);

	if (ret)
		return ret;
	ret = walk_iomem_res_desc(IORES_DESC_DEVICE_PRIVATE_MEMORY,
				  IORESOURCE_MEM, 0, -1, NULL, count_region);
	if (ret < 0 && ret != -EINVAL)
		return ret;
	if (!nr_counted)
		return -ENODEV;
	atomic_long_set(&calls, number);
	return 0;
}

static int calls_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(&calls));
}

static const struct kernel_param_ops calls_ops = {
	.set = calls_set,
	.get = calls_get,
};

module_param_cb(calls, &calls_ops, NULL, 0644);
MODULE_PARM_DESC(calls, "calls of migrate_to_ram(), of all drivers");

static int __init hmm_calls_init(void)
{
	return 0;
}
module_init(hmm_calls_init);

static void __exit hmm_calls_exit(void)
{
	while (nr_counted--)
		WRITE_ONCE(counted[nr_counted].pgmap->ops,
			   counted[nr_counted].was);
}
module_exit(hmm_calls_exit);

MODULE_DESCRIPTION("Count the calls of drivers for faults on their memory");
MODULE_LICENSE("GPL");
