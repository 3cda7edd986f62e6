package engine

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// Logger writes to the engine's log, so that a node has one log in one form.
func Logger() *slog.Logger { return slog.New(handler{}) }

// handler is a slog.Handler over logrus's standard logger.
type handler struct {
	fields logrus.Fields
	group  string
}

var _ slog.Handler = handler{}

var levels = map[slog.Level]logrus.Level{
	slog.LevelDebug: logrus.DebugLevel,
	slog.LevelInfo:  logrus.InfoLevel,
	slog.LevelWarn:  logrus.WarnLevel,
	slog.LevelError: logrus.ErrorLevel,
}

func (handler) Enabled(_ context.Context, level slog.Level) bool {
	return logrus.IsLevelEnabled(levels[level])
}

func (h handler) Handle(_ context.Context, record slog.Record) error {
	fields := logrus.Fields{}
	for k, v := range h.fields {
		fields[k] = v
	}
	record.Attrs(func(a slog.Attr) bool {
		fields[h.group+a.Key] = a.Value.Any()
		return true
	})
	logrus.WithTime(record.Time).WithFields(fields).Log(levels[record.Level], record.Message)
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := logrus.Fields{}
	for k, v := range h.fields {
		fields[k] = v
	}
	for _, a := range attrs {
		fields[h.group+a.Key] = a.Value.Any()
	}
	return handler{fields: fields, group: h.group}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{fields: h.fields, group: h.group + name + "."}
}
