// SPDX-License-Identifier: GPL-2.0
/*
 * How often a function is called.
 *
 * The module's parameter "symbol" names a function of the kernel or of another
 * module, "calls" tells how often it was called since it was last written to.
 * A probe counts, so the kernel needs CONFIG_KPROBES and nothing else: a test
 * can count the same way in any kernel.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sysfs.h>

static char *symbol = "";
module_param(symbol, charp, 0444);
MODULE_PARM_DESC(symbol, "function whose calls are counted");

static atomic_long_t calls;

static int calls_set(const char *value, const struct kernel_param *param)
{
	long number;
	int ret = kstrtol(value, 0, &number);

	if (!ret)
		atomic_long_set(&calls, number);
	return ret;
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
MODULE_PARM_DESC(calls, "number of calls");

static int call_hit(struct kprobe *probe, struct pt_regs *regs)
{
	atomic_long_inc(&calls);
	return 0;
}

static struct kprobe probe = {
	.pre_handler = call_hit,
};

static int __init hmm_calls_init(void)
{
	int ret;

	probe.symbol_name = symbol;
	ret = register_kprobe(&probe);
	if (ret)
		pr_err("no probe of '%s': %d\n", symbol, ret);
	return ret;
}
module_init(hmm_calls_init);

static void __exit hmm_calls_exit(void)
{
	unregister_kprobe(&probe);
}
module_exit(hmm_calls_exit);

MODULE_DESCRIPTION("Count the calls of a function");
MODULE_LICENSE("GPL");
