"""SmolLM2-135M-Instruct taught to a student made of half its layers."""
