// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"

	dqlite "github.com/canonical/go-dqlite/v2/driver"
)

// connector opens dqlite connections that deliver every result whole.
//
// kine reads rows without ever asking whether the last one was the last (it ignores sql.Rows.Err), so a read cut short
// by a failing leader would count as complete: a list with objects missing, which a controller may act upon. Here the
// rows are read to their end inside the query, and a cut is an error of the query.
type connector struct {
	inner   driver.Connector
	horizon *horizon
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.inner.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, ok := opened.(*dqlite.Conn)
	if !ok {
		return nil, errors.Join(errors.New("not a dqlite connection"), opened.Close())
	}
	return &wholeConn{Conn: conn, prepared: map[string]*dqlite.Stmt{}, horizon: c.horizon}, nil
}

func (c connector) Driver() driver.Driver { return c.inner.Driver() }

// wholeConn keeps what it has executed prepared: SQLite takes several times longer to understand kine's statements than
// to execute them. They end with the connection.
type wholeConn struct {
	*dqlite.Conn
	prepared map[string]*dqlite.Stmt
	horizon  *horizon
}

// maxPrepared bounds the statements of a connection. There are some twenty texts without a number in them; kine writes
// the limit of a list into its text, and the writer has one text for each number of writes.
const maxPrepared = 48

// statement returns the prepared statement of a text, or nil when the text shall be sent as it is.
func (c *wholeConn) statement(ctx context.Context, query string) (*dqlite.Stmt, error) {
	if stmt := c.prepared[query]; stmt != nil || len(c.prepared) >= maxPrepared {
		return stmt, nil
	}
	stmt, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	c.prepared[query] = stmt
	return stmt, nil
}

func (c *wholeConn) prepare(ctx context.Context, query string) (*dqlite.Stmt, error) {
	opened, err := c.Conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	stmt, ok := opened.(*dqlite.Stmt)
	if !ok {
		return nil, errors.Join(errors.New("not a dqlite statement"), opened.Close())
	}
	return stmt, nil
}

func (c *wholeConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	stmt, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt != nil {
		return whole(stmt.QueryContext(ctx, args))
	}
	return whole(c.Conn.QueryContext(ctx, query, args))
}

func (c *wholeConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 0 {
		// BEGIN and the like, and the schema.
		return c.Conn.ExecContext(ctx, query, args)
	}
	stmt, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt != nil {
		return stmt.ExecContext(ctx, args)
	}
	return c.Conn.ExecContext(ctx, query, args)
}

func (c *wholeConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return &wholeStmt{stmt, c.horizon}, nil
}

// wholeStmt is the only statement kine itself prepares: its poll for what is to be told to watches. Each row begins
// with the newest revision.
type wholeStmt struct {
	*dqlite.Stmt
	horizon *horizon
}

func (s *wholeStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := whole(s.Stmt.QueryContext(ctx, args))
	if result, ok := rows.(*wholeRows); ok && len(result.values) > 0 {
		if newest, ok := result.values[0][0].(int64); ok {
			s.horizon.seen(newest)
		}
	}
	return rows, err
}

// wholeRows is a result in memory.
type wholeRows struct {
	columns []string
	values  [][]driver.Value
}

// whole reads rows to their end; the error of the query, if there was one, passes through.
func whole(rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, err
	}
	result := &wholeRows{columns: rows.Columns()}
	for {
		row := make([]driver.Value, len(result.columns))
		switch err := rows.Next(row); {
		case err == io.EOF:
			return result, rows.Close()
		case err != nil:
			// Closing would ask the server to stop the query, over a connection that has just failed.
			return nil, err
		}
		result.values = append(result.values, row)
	}
}

func (r *wholeRows) Columns() []string { return r.columns }

func (r *wholeRows) Close() error { return nil }

func (r *wholeRows) Next(destination []driver.Value) error {
	if len(r.values) == 0 {
		return io.EOF
	}
	copy(destination, r.values[0])
	r.values[0] = nil
	r.values = r.values[1:]
	return nil
}
