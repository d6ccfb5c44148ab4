// The installed header is for C++ too, and the shared library has all that it names.
#include <locker/locker.h>

static void on_reply(void *, const locker_reply *) {}

static void on_event(void *, locker_lock *, locker_event, locker_outcome) {}

static void on_election(void *, locker_election *, locker_election_event, locker_outcome) {}

int main()
{
	locker_client_options options = {};
	locker_client *client = nullptr;
	options.nodes = "127.0.0.1:1";
	options.own_loop = true;
	if (locker_client_new(&options, &client) != LOCKER_OK)
		return 1;

	locker_command command = {};
	command.verb = LOCKER_READ;
	command.key = locker_text("k");
	locker_reply reply;
	if (locker_call(client, &command, &reply) != LOCKER_CONNECT)
		return 2;
	if (locker_submit(client, &command, on_reply, nullptr) != LOCKER_OK)
		return 3;
	if (locker_fd(client) < 0 || locker_process(client) != LOCKER_OK)
		return 4;
	(void)locker_next_timeout_ms(client);
	char address[32];
	locker_client_node(client, address, sizeof address);

	locker_lock_options wish = {};
	locker_lock *lock = nullptr;
	wish.key = command.key;
	wish.ttl_ms = 1000;
	wish.on_event = on_event;
	if (locker_lock_new(client, &wish, &lock) != LOCKER_OK)
		return 5;
	if (locker_acquire(lock, 0, &reply) != LOCKER_CONNECT || locker_lock_valid(lock))
		return 6;
	if (locker_release(lock, nullptr) != LOCKER_LOST ||
		locker_extend(lock, 1, nullptr) != LOCKER_LOST)
		return 7;
	if (locker_lock_remaining_ms(lock) != 0 || locker_lock_token(lock) != 0)
		return 8;
	(void)locker_acquire_async(lock, 0, on_reply, nullptr);
	(void)locker_extend_async(lock, 0, on_reply, nullptr);
	(void)locker_release_async(lock, on_reply, nullptr);
	locker_lock_free(lock);

	locker_election_options stand = {};
	locker_election *election = nullptr;
	stand.key = command.key;
	stand.name = locker_text("me");
	stand.ttl_ms = 1000;
	stand.on_event = on_election;
	if (locker_election_new(client, &stand, &election) != LOCKER_OK)
		return 12;
	if (locker_election_campaign(election) != LOCKER_OK ||
		locker_election_resign(election) != LOCKER_OK)
		return 13;
	if (locker_election_valid(election) || locker_election_token(election) != 0 ||
		locker_election_leader(election, &reply) != LOCKER_UNKNOWN)
		return 14;
	locker_election_free(election);

	locker_guard guard = {};
	if (!locker_guard_accept(&guard, 3) || locker_guard_accept(&guard, 2))
		return 9;
	if (*locker_outcome_word(LOCKER_OK) == '\0' || *locker_outcome_sentence(LOCKER_OK) == '\0')
		return 10;
	return locker_client_free(client) == LOCKER_OK ? 0 : 11;
}
