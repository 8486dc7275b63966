"""The stages of a run: functions of plain values that return a frozen result."""
