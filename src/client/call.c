#include <stdlib.h>

#include "client/internal.h"

/* ---- waiting ---- */

static void waiter_hear(
	struct locker_client *c, struct hearer *self, const struct locker_reply *reply)
{
	struct waiter *w = container_of(self, struct waiter, hearer);

	reply_copy(w->ret, reply);
	w->outcome = reply->outcome;
	w->done = true;
	pthread_cond_broadcast(&c->changed);
}

void waiter_init(struct waiter *w, struct locker_reply *ret)
{
	*w = (struct waiter){.hearer.hear = waiter_hear, .ret = ret};
}

enum locker_outcome waiter_wait(struct locker_client *c, struct waiter *w)
{
	client_wait(c, &w->done);
	return w->outcome;
}

/* ---- being called back ---- */

struct callee {
	struct hearer hearer;
	struct callback callback;
	locker_reply_fn fn;
	void *context;
	struct locker_reply reply;
};

static void callee_run(struct callback *self)
{
	struct callee *callee = container_of(self, struct callee, callback);

	callee->fn(callee->context, &callee->reply);
	free(callee);
}

static void callee_hear(
	struct locker_client *c, struct hearer *self, const struct locker_reply *reply)
{
	struct callee *callee = container_of(self, struct callee, hearer);

	reply_copy(&callee->reply, reply);
	client_callback(c, &callee->callback);
}

struct hearer *callee_new(locker_reply_fn fn, void *context)
{
	struct callee *callee = malloc(sizeof *callee);

	if (!callee)
		return NULL;
	callee->hearer.hear = callee_hear;
	callee->callback = (struct callback){.run = callee_run};
	callee->fn = fn;
	callee->context = context;
	return &callee->hearer;
}

void callee_free(struct hearer *hearer)
{
	free(container_of(hearer, struct callee, hearer));
}

/* ---- any command ---- */

static void request_heard(
	struct locker_client *c, struct request *r, const struct locker_reply *reply)
{
	struct hearer *hearer = r->context;

	hearer->hear(c, hearer, reply);
}

static enum locker_outcome submit(
	struct locker_client *c, const struct locker_command *command, struct hearer *hearer)
{
	if (c->closing)
		return LOCKER_USAGE;
	return request_submit(c, command, c->call_ns, c->answer_ns, request_heard, hearer)
		       ? LOCKER_OK
		       : LOCKER_MEMORY;
}

enum locker_outcome locker_call(struct locker_client *client, const struct locker_command *command,
	struct locker_reply *ret)
{
	struct waiter w;
	const char *why = "";

	enum locker_outcome outcome = command_check(command, &why);
	if (outcome != LOCKER_OK)
		return reply_usage(ret, outcome, why);
	waiter_init(&w, ret);
	client_lock(client);
	if (client_in_callback(client))
		outcome = reply_usage(ret, LOCKER_USAGE, "this would block inside a callback");
	else if ((outcome = submit(client, command, &w.hearer)) != LOCKER_OK)
		reply_usage(ret, outcome, locker_outcome_sentence(outcome));
	else
		outcome = waiter_wait(client, &w);
	client_unlock(client);
	return outcome;
}

enum locker_outcome locker_submit(struct locker_client *client,
	const struct locker_command *command, locker_reply_fn fn, void *context)
{
	const char *why;

	if (!fn)
		return LOCKER_USAGE;
	enum locker_outcome outcome = command_check(command, &why);
	if (outcome != LOCKER_OK)
		return outcome;
	struct hearer *callee = callee_new(fn, context);
	if (!callee)
		return LOCKER_MEMORY;
	client_lock(client);
	outcome = submit(client, command, callee);
	client_unlock(client);
	if (outcome != LOCKER_OK)
		callee_free(callee);
	return outcome;
}
