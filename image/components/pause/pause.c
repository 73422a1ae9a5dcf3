// SPDX-License-Identifier: Apache-2.0

// The process that keeps a pod's namespaces alive: it does nothing but reap what is handed to it and end when told.
// In C because every pod has one: it takes a few pages of memory where a Go program takes megabytes.

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

int main(void) {
    sigset_t signals;
    int signal;

    // Process 1 of a namespace has no default actions: a blocked signal that is waited for is one that is seen.
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0) {
        perror("pause: cannot block signals");
        return 1;
    }
    for (;;) {
        if (sigwait(&signals, &signal) != 0)
            continue;
        if (signal != SIGCHLD)
            return 0;
        // One signal may stand for several children.
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    }
}
