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

// level is the engine's name for a level. There are others than the four that have
// names: Kubernetes' libraries count on below debugging.
func level(l slog.Level) logrus.Level {
	switch {
	case l >= slog.LevelError:
		return logrus.ErrorLevel
	case l >= slog.LevelWarn:
		return logrus.WarnLevel
	case l >= slog.LevelInfo:
		return logrus.InfoLevel
	case l >= slog.LevelDebug:
		return logrus.DebugLevel
	}
	return logrus.TraceLevel
}

func (handler) Enabled(_ context.Context, l slog.Level) bool {
	return logrus.IsLevelEnabled(level(l))
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
	logrus.WithTime(record.Time).WithFields(fields).Log(level(record.Level), record.Message)
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
