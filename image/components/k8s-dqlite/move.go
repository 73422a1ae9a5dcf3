// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	godqlite "github.com/canonical/go-dqlite/v2"
	"github.com/canonical/go-dqlite/v2/client"
	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v2"
)

// moveAddress gives a member its new address if it is alone and has been on the loopback address so far: a cluster's
// first member listens to its own machine only until there is a second one. Any other change of address is refused by
// go-dqlite, since the others would not find the member.
//
// The list of members is written last and is what is looked at, so losing power in between only means doing it again.
func moveAddress(dir, address string) error {
	list := filepath.Join(dir, "cluster.yaml")
	members, err := memberStore(list).Get(context.Background())
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	if len(members) != 1 || members[0].Address == address {
		return nil
	}
	if loopback, _ := checkAddress(members[0].Address); !loopback {
		return nil
	}
	logrus.Infof("moving from %s to %s", members[0].Address, address)
	moved := client.NodeInfo{ID: members[0].ID, Address: address, Role: client.Voter}
	if err := godqlite.ReconfigureMembershipExt(dir, []godqlite.NodeInfo{moved}); err != nil {
		return fmt.Errorf("new address %s: %w", address, err)
	}
	if err := writeYAML(filepath.Join(dir, "info.yaml"), moved); err != nil {
		return err
	}
	return writeYAML(list, []client.NodeInfo{moved})
}

// writeYAML replaces a file; its content is on disk before it has the name, and the name before it returns.
func writeYAML(path string, value any) error {
	data, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
