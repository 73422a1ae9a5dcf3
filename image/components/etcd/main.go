// SPDX-License-Identifier: Apache-2.0

// The etcd server and its two tools as one program, chosen by the name it is called by: they are mostly the same code.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "etcdctl":
		ctlv3.MustStart()
	case "etcdutl":
		if err := utility().Execute(); err != nil {
			cobrautl.ExitWithError(cobrautl.ExitError, err)
		}
	default:
		fmt.Fprintf(os.Stderr, "%s: call this program as etcd, etcdctl or etcdutl\n", name)
		os.Exit(2)
	}
}

// utility puts etcdutl's commands under one root; upstream's root is in a package that cannot be imported.
func utility() *cobra.Command {
	root := &cobra.Command{Use: "etcdutl", Short: "Work on etcd's data files without a server"}
	flags := root.PersistentFlags()
	flags.DurationVar(&etcdutl.FlockTimeout, "timeout", 10*time.Second, "how long to wait for the lock of the database, 0: for ever")
	flags.StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "fields, json, protobuf, simple or table")
	root.AddCommand(
		etcdutl.NewDefragCommand(),
		etcdutl.NewSnapshotCommand(),
		etcdutl.NewHashKVCommand(),
		etcdutl.NewMigrateCommand(),
		etcdutl.NewVersionCommand(),
		newSalvageCommand(),
		newExportCommand(),
		newImportCommand(),
	)
	return root
}
