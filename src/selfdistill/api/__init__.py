"""The Python API: functions, and views of what they made. The package itself names them and imports them lazily."""
