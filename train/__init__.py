"""SPot-the-Difference pre-training: `accelerate launch -m train simsiam --data.train DIR --out RUN`."""
