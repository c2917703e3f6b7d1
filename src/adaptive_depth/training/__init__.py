"""network → trained network: self-distillation, and a loop around it."""
