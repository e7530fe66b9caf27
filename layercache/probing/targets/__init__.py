"""What a probe predicts, from annotation columns."""
