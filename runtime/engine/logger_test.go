package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestLoggerTakesEveryLevel: levels without a name of their own must not end the node.
func TestLoggerTakesEveryLevel(t *testing.T) {
	var out bytes.Buffer
	logger, was, at := logrus.StandardLogger(), logrus.StandardLogger().Out, logrus.GetLevel()
	logger.SetOutput(&out)
	logger.SetLevel(logrus.TraceLevel)
	t.Cleanup(func() {
		logger.SetOutput(was)
		logger.SetLevel(at)
	})
	for l, want := range map[slog.Level]string{
		slog.LevelError: "error", slog.LevelError + 4: "error", slog.LevelWarn + 1: "warning", slog.LevelInfo: "info", -1: "debug", -4: "debug", -8: "trace",
	} {
		out.Reset()
		Logger().Log(t.Context(), l, "said", "key", "value")
		if got := out.String(); !strings.Contains(got, "level="+want) || !strings.Contains(got, "key=value") {
			t.Errorf("level %d: %q, want %s", l, got, want)
		}
	}
	logger.SetLevel(logrus.InfoLevel)
	if h := Logger().Handler(); h.Enabled(t.Context(), slog.LevelDebug) || h.Enabled(t.Context(), -8) || !h.Enabled(t.Context(), slog.LevelWarn) {
		t.Error("what is below the level is not left out")
	}
}
