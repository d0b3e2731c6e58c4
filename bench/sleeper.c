/* The agent of the benchmarks: notes when it began, and waits for its end.
 *
 * sleeper [STARTS]            appends a record to the file $BENCH_STARTS (or STARTS), and sleeps
 * sleeper -d STARTS PIDFILE   the same in the background, its process id in PIDFILE: for monit, which makes no children
 * sleeper -k PIDFILE          ends the one of PIDFILE, and waits until it is gone
 *
 * A record is two 64-bit numbers: the process id, and CLOCK_MONOTONIC in nanoseconds. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int sleep_for_ever(const char *starts)
{
	struct timespec now;
	uint64_t record[2];
	int fd;

	clock_gettime(CLOCK_MONOTONIC, &now);
	record[0] = (uint64_t)getpid();
	record[1] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	fd = open(starts, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, record, sizeof record) != sizeof record)
		return 1;
	close(fd);
	for (;;)
		pause();
}

static int background(const char *starts, const char *pidfile)
{
	char text[32];
	int fd, length;
	pid_t pid = fork();

	if (pid < 0)
		return 1;
	if (pid == 0) {
		setsid();
		return sleep_for_ever(starts);
	}
	length = snprintf(text, sizeof text, "%d\n", (int)pid);
	fd = open(pidfile, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	return fd < 0 || write(fd, text, (size_t)length) != length;
}

static int end(const char *pidfile)
{
	const struct timespec pause = { 0, 1000000 };
	FILE *file = fopen(pidfile, "r");
	int pid;

	if (!file || fscanf(file, "%d", &pid) != 1 || pid < 2)
		return 1;
	for (kill(pid, SIGTERM); kill(pid, 0) == 0;)
		nanosleep(&pause, NULL);
	return unlink(pidfile);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "-d"))
		return background(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "-k"))
		return end(argv[2]);
	const char *starts = getenv("BENCH_STARTS");
	if (!starts && argc > 1)
		starts = argv[1];
	return starts ? sleep_for_ever(starts) : 2;
}
