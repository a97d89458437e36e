"""SYNTHETIC ultrasound streams: what is drawn (`script`, `anatomy`, `film`), how (`ultrasound`), and their folder."""
