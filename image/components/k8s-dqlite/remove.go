// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/canonical/go-dqlite/v2/client"
)

// Answering returns which members answer a question, by address. They are asked all at once.
func (m *Member) Answering(ctx context.Context, members []client.NodeInfo) map[string]bool {
	var mutex sync.Mutex
	var asked sync.WaitGroup
	answering := map[string]bool{}
	for _, each := range members {
		asked.Go(func() {
			if m.ask(ctx, each.Address) == nil {
				mutex.Lock()
				defer mutex.Unlock()
				answering[each.Address] = true
			}
		})
	}
	asked.Wait()
	return answering
}

// ask asks a member who leads, which it answers whoever that is.
func (m *Member) ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	there, err := client.New(ctx, address, client.WithDialFunc(m.network.Dial))
	if err != nil {
		return err
	}
	defer there.Close()
	_, err = there.Leader(ctx)
	return err
}

// Remove takes a member out of the cluster, whether it runs or not; it is done when there is no such member.
//
// Whether the others can do without it is for the caller to know: dqlite removes whom it is told to.
func (m *Member) Remove(ctx context.Context, address string) error {
	leader, err := m.app.FindLeader(ctx)
	if err != nil {
		return err
	}
	defer func() { leader.Close() }()
	members, err := leader.Cluster(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(members, func(each client.NodeInfo) bool { return each.Address == address })
	if at < 0 {
		return nil
	}
	leaves, others := members[at], slices.Delete(slices.Clone(members), at, at+1)
	leading, err := leader.Leader(ctx)
	if err != nil {
		return err
	}
	if leading.ID == leaves.ID {
		if err := m.handTo(ctx, leader, others); err != nil {
			return err
		}
		successor, err := m.app.FindLeader(ctx)
		if err != nil {
			return err
		}
		leader.Close()
		leader = successor
	}
	return leader.Remove(ctx, leaves.ID)
}

// handTo gives leadership to the best of the others that answers. Of two members only the leader votes, so the other one
// gets its vote first; go-dqlite's look at the roles could take it away again at once, and then the transfer fails.
func (m *Member) handTo(ctx context.Context, leader *client.Client, others []client.NodeInfo) error {
	answering := m.Answering(ctx, others)
	others = slices.DeleteFunc(others, func(each client.NodeInfo) bool { return !answering[each.Address] })
	if len(others) == 0 {
		return errors.New("the member leads, and no other one answers that could take over")
	}
	// Voters come first, then those that stand by and have all data, then spares.
	heir := slices.MinFunc(others, func(a, b client.NodeInfo) int { return cmp.Compare(a.Role, b.Role) })
	if heir.Role != client.Voter {
		if err := leader.Assign(ctx, heir.ID, client.Voter); err != nil {
			return fmt.Errorf("%s gets no vote: %w", heir.Address, err)
		}
	}
	if err := leader.Transfer(ctx, heir.ID); err != nil {
		return fmt.Errorf("%s does not take over: %w", heir.Address, err)
	}
	return nil
}
